"""A small Markov decision process, all of its trajectories, and what theory says of them.

Its last state is terminal. Policies are matrices [state, action] over the others, values vectors over the others; the
terminal state has value 0.
"""

import numpy as np


def softmax(logits):
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True)


class TabularMDP:
    def __init__(self, seed, num_states=3, num_actions=2, gamma=0.8):
        rng = np.random.default_rng(seed)
        self.num_states, self.num_actions, self.gamma = num_states, num_actions, gamma
        self.start = rng.dirichlet(np.ones(num_states))
        # [state, action, next state]
        self.transitions = rng.dirichlet(np.ones(num_states + 1), (num_states, num_actions))
        self.rewards = rng.standard_normal((num_states, num_actions, num_states + 1))

    def q_backup(self, values):
        """Q(s, a) of one step and then `values`."""
        after = np.append(values, 0)
        return (self.transitions * (self.rewards + self.gamma * after)).sum(axis=2)

    def backup(self, policy, values):
        """The Bellman operator of a policy."""
        return (policy * self.q_backup(values)).sum(axis=1)

    def backups(self, policy, values, steps):
        for _ in range(steps):
            values = self.backup(policy, values)
        return values

    def values_of(self, policy):
        """V of a policy for ever, by its linear equations."""
        moves = np.einsum("sa,san->sn", policy, self.transitions)[:, :-1]
        return np.linalg.solve(
            np.eye(self.num_states) - self.gamma * moves, self.backup(policy, np.zeros(self.num_states))
        )

    def lambda_backup(self, policy, values, lam, steps):
        """(1 - lam) sum_{n < steps} lam^(n-1) T^n V + lam^(steps-1) T^steps V."""
        horizons = [self.backups(policy, values, n) for n in range(1, steps + 1)]
        mixture = sum((1 - lam) * lam ** (n - 1) * horizon for n, horizon in enumerate(horizons[:-1], start=1))
        return mixture + lam ** (steps - 1) * horizons[-1]

    def return_of(self, logits, values, steps):
        """What the softmax policy earns in so many steps and `values` after them: for complex logits too."""
        return self.start @ self.backups(softmax(logits), values, steps)

    def policy_gradient(self, logits, values, steps):
        """Its gradient by the logits, by steps into the complex plane: exact to rounding."""
        gradient = np.zeros_like(logits)
        for index in np.ndindex(logits.shape):
            shifted = logits.astype(complex)
            shifted[index] += 1e-30j
            gradient[index] = self.return_of(shifted, values, steps).imag / 1e-30
        return gradient


class Trajectories:
    """Every trajectory of so many steps, as columns [T, N]; what lies behind a terminal state is garbage."""

    def __init__(self, mdp, num_steps):
        self.mdp, self.num_steps = mdp, num_steps
        states, actions, alive = [np.arange(mdp.num_states)], [], []
        for _ in range(num_steps):
            at = states[-1]
            goes_on = at < mdp.num_states
            choices = [
                (index, action, after)
                for index in range(len(at))
                for action, after in (
                    np.ndindex(mdp.num_actions, mdp.num_states + 1) if goes_on[index] else [(0, mdp.num_states)]
                )
            ]
            parent, action, after = np.array(choices).T
            states = [row[parent] for row in states] + [after]
            actions = [row[parent] for row in actions] + [action]
            alive = [row[parent] for row in alive] + [goes_on[parent]]
        self.states, self.actions, self.alive = np.array(states), np.array(actions), np.array(alive)
        inside = np.where(self.alive, self.states[:-1], 0)
        self.steps = (inside, self.actions, self.states[1:])
        self.rewards = np.where(self.alive, mdp.rewards[self.steps], np.nan)
        self.terminated = self.alive & (self.states[1:] == mdp.num_states)
        self.truncated = np.zeros_like(self.terminated)
        self.truncated[-1] = self.alive[-1] & ~self.terminated[-1]
        self.ends = {"terminated": self.terminated, "truncated": self.truncated}

    def probabilities(self, policy):
        inside, actions, _ = self.steps
        moves = policy[inside, actions] * self.mdp.transitions[self.steps]
        return self.mdp.start[self.states[0]] * np.where(self.alive, moves, 1).prod(axis=0)

    def of_states(self, table):
        """table[s_t], garbage where there is no step."""
        return np.where(self.alive, table[self.steps[0]], np.nan)

    def of_actions(self, table):
        """table[s_t, a_t]."""
        return np.where(self.alive, table[self.steps[:2]], np.nan)

    def of_successors(self, table):
        """table[s_{t+1}], garbage for the terminal state."""
        return np.where(self.alive, np.append(table, np.nan)[self.states[1:]], np.nan)

    def of_next_actions(self, table):
        """table[s_{t+1}, a_{t+1}], garbage where there is no such action."""
        return np.concatenate([self.of_actions(table)[1:], np.full((1, self.states.shape[1]), np.nan)])

    def given_state(self, policy, result, step):
        """E[result_t | s_t] for each state."""
        return self.given(policy, result, step, self.steps[0][step], (self.mdp.num_states,))

    def given_action(self, policy, result, step):
        """E[result_t | s_t, a_t] for each state and action; NaN where that never happens."""
        shape = (self.mdp.num_states, self.mdp.num_actions)
        pairs = np.ravel_multi_index((self.steps[0][step], self.steps[1][step]), shape)
        return self.given(policy, result, step, pairs, shape)

    def given(self, policy, result, step, condition, shape):
        weights = np.where(self.alive[step], self.probabilities(policy), 0)
        taken = weights > 0
        assert np.isfinite(result[step][taken]).all()
        total, weight = (
            np.bincount(condition[taken], amounts[taken], minlength=int(np.prod(shape))).reshape(shape)
            for amounts in (weights * np.where(taken, result[step], 0), weights)
        )
        return np.divide(total, weight, out=np.full(shape, np.nan), where=weight > 0)

    def score_sum(self, policy, behaviour, advantages, ratios=None):
        """E[sum_t gamma^t (prod_{i < t} ratios_i) grad log pi(a_t | s_t) A_t] for softmax logits, under `behaviour`."""
        weight = self.probabilities(behaviour)
        gradient = np.zeros_like(policy)
        for t in range(self.num_steps):
            inside = self.alive[t]
            state, action = self.steps[0][t][inside], self.steps[1][t][inside]
            amounts = (weight * self.mdp.gamma**t)[inside] * advantages[t][inside]
            np.add.at(gradient, (state, action), amounts)
            np.subtract.at(gradient, state, amounts[:, None] * policy[state])
            if ratios is not None:
                weight = weight * np.where(inside, ratios[t], 1)
        return gradient
