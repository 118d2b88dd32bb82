"""What the heads say of labels, against densities and divergences that are summed and integrated independently."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions

from metafast.data.tasks import Task
from metafast.trainers import UsageError
from metafast.trainers._likelihoods import Bernoulli, Beta, Categorical, Gaussian, make_likelihood

FAMILIES = {
    "bernoulli": Bernoulli(soft=False),
    "soft bernoulli": Bernoulli(soft=True),
    "categorical": Categorical(4),
    "gaussian": Gaussian(bounded=False, learnt_scale=True),
    "bounded gaussian": Gaussian(bounded=True, learnt_scale=True),
    "squared": Gaussian(bounded=False, learnt_scale=False),
    "bounded squared": Gaussian(bounded=True, learnt_scale=False),
    "beta": Beta(),
}
each_family = pytest.mark.parametrize("name", FAMILIES)
# Nodes and weights of Gauss and Legendre's rule from 0 to 1.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


def draw_labels(name, rows, rng):
    if "bernoulli" in name and "soft" not in name:
        return rng.integers(0, 2, rows).astype(float)
    if name == "categorical":
        return rng.integers(0, 4, rows).astype(float)
    if name in ("gaussian", "squared"):
        return rng.normal(2, 3, rows)
    return rng.uniform(0.01, 0.99, rows)


def draw_outputs(name, rows, rng):
    """Outputs and log scale; a Beta's are such that its density falls to 0 at both ends."""
    outputs = torch.from_numpy(rng.normal(0, 1, (rows, FAMILIES[name].num_outputs)).clip(-1.5, 1.5))
    return outputs, torch.tensor(-1.5 - rng.random() if name == "beta" else rng.normal(0, 0.5), dtype=torch.float64)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def log_density(name, outputs, log_scale, labels):
    """log p(label) [rows] in NumPy, from one row of outputs for each label; labels are 0, 1, ... for the discrete."""
    first, scale = outputs[:, 0], np.exp(log_scale)
    if "bernoulli" in name:
        return labels * np.log(sigmoid(first)) + (1 - labels) * np.log(sigmoid(-first))
    if name == "categorical":
        return outputs[np.arange(len(labels)), labels.astype(int)] - np.log(np.exp(outputs).sum(1))
    if name == "beta":
        mean, precision = sigmoid(first), scale**-2.0
        log_gamma = np.vectorize(math.lgamma)
        normaliser = log_gamma(precision) - log_gamma(precision * mean) - log_gamma(precision * (1 - mean))
        return normaliser + (precision * mean - 1) * np.log(labels) + (precision * (1 - mean) - 1) * np.log(1 - labels)
    mean = sigmoid(first) if "bounded" in name else first
    deviation = math.sqrt(0.5) if "squared" in name else scale
    return -0.5 * ((labels - mean) / deviation) ** 2 - np.log(deviation * math.sqrt(2 * math.pi))


def expected_under(name, outputs, log_scale, function):
    """E_q[function(label)] [rows]: a sum over classes, Gauss-Legendre quadrature over numbers."""
    rows = len(outputs)
    if "bernoulli" in name or name == "categorical":
        points, weights = np.arange(2.0 if "bernoulli" in name else 4.0), None
    elif name == "beta":
        points, weights = NODES, WEIGHTS
    else:
        # Wide enough for every q of these tests.
        points, weights = 120 * NODES - 60, 120 * WEIGHTS
    total = np.zeros(rows)
    for number, label in enumerate(points):
        labels = np.full(rows, label)
        density = np.exp(log_density(name, outputs, log_scale, labels))
        total += density * function(labels) * (1 if weights is None else weights[number])
    return total


@each_family
def test_the_loss_is_minus_the_log_probability_of_the_label(name):
    rng = np.random.default_rng(1)
    labels = draw_labels(name, 50, rng)
    outputs, log_scale = draw_outputs(name, 50, rng)
    expected = -log_density(name, outputs.numpy(), float(log_scale), labels)
    if "squared" in name:
        # Without the constants of the Gaussian of variance 1/2.
        expected -= 0.5 * math.log(math.pi)
    loss = FAMILIES[name].loss(outputs, log_scale, torch.from_numpy(labels))
    assert loss.shape == (50,)
    np.testing.assert_allclose(loss, expected, rtol=1e-10, atol=1e-12)


@each_family
def test_losses_that_are_said_to_be_never_negative_are_so_and_the_others_can_be_negative(name):
    family, rng = FAMILIES[name], np.random.default_rng(2)
    if family.non_negative:
        outputs, log_scale = draw_outputs(name, 1000, rng)
        assert (family.loss(10 * outputs, log_scale, torch.from_numpy(draw_labels(name, 1000, rng))) >= 0).all()
    else:
        narrow = torch.tensor(-3.0)
        label = torch.tensor([0.0 if name == "gaussian" else 0.5])
        assert family.loss(torch.zeros(1, 1), narrow, label) < 0


def as_torch_distribution(name, outputs, log_scale):
    if "bernoulli" in name:
        return distributions.Bernoulli(logits=outputs[:, 0])
    if name == "categorical":
        return distributions.Categorical(logits=outputs)
    mean = torch.sigmoid(outputs[:, 0]) if name == "beta" or "bounded" in name else outputs[:, 0]
    if name == "beta":
        precision = torch.exp(-2 * log_scale)
        return distributions.Beta(mean * precision, (1 - mean) * precision)
    return distributions.Normal(mean, math.sqrt(0.5) if "squared" in name else torch.exp(log_scale))


@each_family
def test_the_divergence_is_the_sum_or_integral_it_is_said_to_be(name):
    rng = np.random.default_rng(3)
    prior, prior_log_scale = draw_outputs(name, 20, rng)
    outputs, log_scale = draw_outputs(name, 20, rng)
    divergence = FAMILIES[name].divergence(prior, prior_log_scale, outputs, log_scale)
    assert divergence.shape == (20,)
    closed = distributions.kl_divergence(
        as_torch_distribution(name, prior, prior_log_scale), as_torch_distribution(name, outputs, log_scale)
    )
    np.testing.assert_allclose(divergence, closed, rtol=1e-9, atol=1e-12)
    q, p = (prior.numpy(), float(prior_log_scale)), (outputs.numpy(), float(log_scale))
    summed = expected_under(name, *q, lambda labels: log_density(name, *q, labels) - log_density(name, *p, labels))
    np.testing.assert_allclose(divergence, summed, rtol=1e-4, atol=1e-5)


@each_family
@given(seed=st.integers(0, 2**32), size=st.floats(0.01, 8.0))
def test_the_divergence_is_0_from_itself_and_never_negative(name, seed, size):
    rng = np.random.default_rng(seed)
    (prior, prior_log_scale), (outputs, log_scale) = draw_outputs(name, 8, rng), draw_outputs(name, 8, rng)
    prior, outputs = size * prior, size * outputs
    family = FAMILIES[name]
    assert (family.divergence(prior, prior_log_scale, outputs, log_scale) >= -1e-9).all()
    assert (family.divergence(prior, prior_log_scale, outputs + 1.0, log_scale) >= -1e-9).all()
    itself = family.divergence(prior, prior_log_scale, prior, prior_log_scale)
    np.testing.assert_allclose(itself, 0.0, atol=1e-9)


@each_family
def test_with_q_held_the_divergence_and_the_cross_entropy_have_one_gradient(name):
    rng = np.random.default_rng(4)
    prior, prior_log_scale = draw_outputs(name, 6, rng)
    outputs, log_scale = draw_outputs(name, 6, rng)
    parameters = [outputs.requires_grad_(), log_scale.requires_grad_()]
    learnt = 2 if name in ("gaussian", "bounded gaussian", "beta") else 1
    divergence = FAMILIES[name].divergence(prior, prior_log_scale, *parameters)
    gradients = torch.autograd.grad(divergence.sum(), parameters[:learnt])
    q, step = (prior.numpy(), float(prior_log_scale)), 1e-5

    def cross_entropy(outputs, log_scale):
        return expected_under(name, *q, lambda labels: -log_density(name, outputs, log_scale, labels))

    p = outputs.detach().numpy(), float(log_scale.detach())
    for column in range(outputs.shape[1]):
        shift = step * np.eye(outputs.shape[1])[column]
        difference = (cross_entropy(p[0] + shift, p[1]) - cross_entropy(p[0] - shift, p[1])) / (2 * step)
        np.testing.assert_allclose(gradients[0][:, column], difference, rtol=1e-4, atol=1e-6)
        assert abs(difference).max() > 1e-3
    if learnt == 2:
        difference = (cross_entropy(p[0], p[1] + step) - cross_entropy(p[0], p[1] - step)).sum() / (2 * step)
        assert float(gradients[1]) == pytest.approx(difference, rel=1e-4)


# Only a discrete distribution, or one whose scale is fixed, can stand for a single label.
@pytest.mark.parametrize("name", ["bernoulli", "categorical", "squared", "bounded squared"])
def test_divergence_from_a_distribution_sharpened_to_one_label_has_the_gradient_of_the_loss(name):
    family, rng = FAMILIES[name], np.random.default_rng(5)
    labels = torch.from_numpy(draw_labels(name, 10, rng))
    outputs, log_scale = draw_outputs(name, 10, rng)
    if name == "categorical":
        prior = 60 * torch.eye(4, dtype=torch.float64)[labels.long()]
    elif name == "bernoulli":
        prior = 60 * (2 * labels - 1)[:, None]
    else:
        prior = (torch.logit(labels) if "bounded" in name else labels)[:, None]
    outputs.requires_grad_()
    (from_label,) = torch.autograd.grad(family.divergence(prior, log_scale, outputs, log_scale).sum(), outputs)
    (of_loss,) = torch.autograd.grad(family.loss(outputs, log_scale, labels).sum(), outputs)
    torch.testing.assert_close(from_label, of_loss)


@each_family
def test_gradients_are_those_of_finite_differences(name):
    rng = np.random.default_rng(6)
    family, labels = FAMILIES[name], torch.from_numpy(draw_labels(name, 4, rng))
    prior, prior_log_scale, outputs, log_scale = (*draw_outputs(name, 4, rng), *draw_outputs(name, 4, rng))
    for tensor in (prior, prior_log_scale, outputs, log_scale):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *p: family.loss(*p, labels), (outputs, log_scale))
    assert torch.autograd.gradcheck(family.divergence, (prior, prior_log_scale, outputs, log_scale))


def mean_loss(name, outputs, log_scale, labels):
    log_scale = torch.as_tensor(log_scale, dtype=torch.float64)
    return float(FAMILIES[name].loss(outputs.expand(len(labels), -1), log_scale, labels).mean())


@each_family
@given(seed=st.integers(0, 2**32))
def test_no_constant_answer_fits_the_labels_better_than_the_prior(name, seed):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(draw_labels(name, 40, rng))
    if name == "bernoulli":
        labels[:2] = torch.tensor([0.0, 1.0])
    outputs, log_scale = FAMILIES[name].fit_prior(labels)
    assert outputs.shape == (FAMILIES[name].num_outputs,)
    assert isinstance(log_scale, float)
    best = mean_loss(name, outputs, log_scale, labels)
    if name == "beta":
        # By moments, which is near the minimum but not in it.
        mean, precision = float(torch.sigmoid(outputs[0])), math.exp(-2 * log_scale)
        assert mean == pytest.approx(float(labels.mean()))
        assert mean * (1 - mean) / (1 + precision) == pytest.approx(float(labels.var(correction=0)))
        for sign in (-1, 1):
            assert mean_loss(name, outputs + 0.5 * sign, log_scale, labels) > best
            assert mean_loss(name, outputs, log_scale + 0.5 * sign, labels) > best
        return
    for _ in range(5):
        direction = torch.from_numpy(rng.normal(0, 1, outputs.shape))
        # All logits may move alike.
        direction -= direction.mean() if name == "categorical" else 0.0
        for size in (0.01, 0.3):
            assert mean_loss(name, outputs + size * direction, log_scale, labels) > best
    if "gaussian" in name:
        for step in (-0.3, -0.01, 0.01, 0.3):
            assert mean_loss(name, outputs, log_scale + step, labels) > best


def test_the_loss_of_the_prior_is_the_entropy_of_the_labels():
    rng = np.random.default_rng(7)
    for name, shares in (("bernoulli", [0.7, 0.3]), ("categorical", [0.1, 0.2, 0.3, 0.4])):
        labels = torch.from_numpy(np.repeat(np.arange(len(shares)), np.rint(100 * np.array(shares)).astype(int)) * 1.0)
        entropy = -sum(share * math.log(share) for share in shares)
        assert mean_loss(name, *FAMILIES[name].fit_prior(labels), labels) == pytest.approx(entropy, rel=1e-6)
    for name in ("gaussian", "bounded gaussian"):
        labels = torch.from_numpy(draw_labels(name, 200, rng))
        entropy = math.log(float(labels.std(correction=0))) + 0.5 * math.log(2 * math.pi * math.e)
        assert mean_loss(name, *FAMILIES[name].fit_prior(labels), labels) == pytest.approx(entropy, abs=1e-9)
    for name in ("squared", "bounded squared"):
        labels = torch.from_numpy(draw_labels(name, 200, rng))
        variance = float(labels.var(correction=0))
        assert mean_loss(name, *FAMILIES[name].fit_prior(labels), labels) == pytest.approx(variance)
    labels = torch.from_numpy(rng.beta(6, 2, 20_000))
    entropy = float(distributions.Beta(torch.tensor(6.0).double(), torch.tensor(2.0).double()).entropy())
    assert mean_loss("beta", *FAMILIES["beta"].fit_prior(labels), labels) == pytest.approx(entropy, abs=0.02)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in FAMILIES
        for value in (0.0, 0.5, 1.0)
        if value != 0.5 or name not in ("bernoulli", "categorical")
    ],
)
def test_labels_of_one_value_and_at_the_ends_have_finite_priors_losses_and_gradients(name, value):
    family, labels = FAMILIES[name], torch.full((5,), value)
    outputs, log_scale = family.fit_prior(labels)
    assert outputs.isfinite().all()
    assert math.isfinite(log_scale)
    parameters = outputs.expand(5, -1).clone().requires_grad_(), torch.tensor(log_scale).requires_grad_()
    for answers in (
        family.loss(*parameters, labels),
        family.divergence(outputs.expand(5, -1), torch.tensor(log_scale), *parameters),
    ):
        assert answers.isfinite().all()
        for gradient in torch.autograd.grad(answers.sum(), parameters, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()
    # Nor is it nonsense: the other end is less probable.
    if value != 0.5:
        assert (family.loss(*parameters, labels) < family.loss(*parameters, 1 - labels)).all()


def test_a_beta_answers_labels_0_and_1_as_those_a_thousandth_away():
    outputs, log_scale = torch.tensor([[0.3], [-2.0]]), torch.tensor(-1.0)
    ends = Beta().loss(outputs, log_scale, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, Beta().loss(outputs, log_scale, torch.tensor([0.001, 0.999])))
    assert ends.isfinite().all()


def test_a_class_that_does_not_occur_is_improbable_but_not_impossible():
    outputs, _ = Categorical(4).fit_prior(torch.tensor([0.0, 0.0, 1.0, 3.0]))
    probabilities = torch.softmax(outputs, 0)
    torch.testing.assert_close(probabilities[[0, 1, 3]], torch.tensor([0.5, 0.25, 0.25]), rtol=1e-3, atol=0)
    assert 0 < probabilities[2] < 1e-3
    assert float(probabilities[2] / probabilities[1]) == pytest.approx(1e-3)


def test_scores_are_the_share_of_right_answers_or_the_root_of_the_mean_squared_error():
    logits = torch.tensor([[2.0], [-1.0], [0.5], [-3.0]])
    assert Bernoulli(soft=False).score(logits, torch.tensor([1.0, 1.0, 0.0, 0.0])) == 0.5
    assert Bernoulli(soft=False).score(logits, torch.tensor([1.0, 0.0, 1.0, 1.0])) == 0.75
    classes = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0], [0.0, 0.0, 5.0]])
    assert Categorical(3).score(classes, torch.tensor([1.0, 2.0, 2.0])) == pytest.approx(2 / 3)
    labels = np.array([0.9, 0.4, 0.2, 0.0])
    means = sigmoid(logits[:, 0].double().numpy())
    expected = np.sqrt(np.mean((means - labels) ** 2))
    bounded = [Bernoulli(soft=True), Beta(), Gaussian(True, learnt_scale=True), Gaussian(True, learnt_scale=False)]
    for family in bounded:
        assert family.score(logits, torch.from_numpy(labels)) == pytest.approx(expected, rel=1e-6)
    expected = np.sqrt(np.mean((logits[:, 0].numpy() - labels) ** 2))
    for learnt_scale in (True, False):
        family = Gaussian(bounded=False, learnt_scale=learnt_scale)
        assert family.score(logits, torch.from_numpy(labels)) == pytest.approx(expected, rel=1e-6)
        assert math.isnan(family.score(logits[:0], torch.from_numpy(labels[:0])))
    assert math.isnan(Categorical(3).score(classes[:0], torch.zeros(0)))


@pytest.mark.parametrize("regression", ["gaussian", "squared", "beta", "bernoulli"])
def test_a_tasks_kind_and_the_regression_decide_the_likelihood(regression):
    assert not make_likelihood(Task("sick", "binary"), regression).soft
    assert make_likelihood(Task("species", "classes", 7), regression).num_outputs == 7
    bounded = make_likelihood(Task("share", "bounded"), regression)
    expected = {"gaussian": Gaussian, "squared": Gaussian, "beta": Beta, "bernoulli": Bernoulli}[regression]
    assert type(bounded) is expected
    if regression in ("beta", "bernoulli"):
        with pytest.raises(UsageError, match=f"regression '{regression}' is for labels from 0 to 1, but 'size'"):
            make_likelihood(Task("size", "real"), regression)
    else:
        real = make_likelihood(Task("size", "real"), regression)
        assert (bounded.bounded, real.bounded) == (True, False)
        assert bounded.learnt_scale == real.learnt_scale == (regression == "gaussian")
    if regression == "bernoulli":
        assert bounded.soft
