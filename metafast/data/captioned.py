"""Pictures with captions, what is asked of them, and where the evidence for the answers was planted."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class CaptionedPictures:
    """Samples of one split of a data set.

    Attributes
    ----------
    pictures
        uint8 [samples, height, width, channels].
    words
        Captions as word ids [samples, longest], 0 after their ends.
    lengths
        Words of each caption [samples], at least 1.
    targets
        Of each question its answers, integers from 0 [samples].
    classes
        Of each question the names of its answers.
    vocabulary
        The word of each id; that of 0 pads.
    evidence_word
        Index in the caption of the word that decides an answer, or -1 [samples].
    evidence_box
        Where in the picture the answer is seen: top, left, bottom, right [samples, 4] in pixels, ends exclusive.
    kinds
        What distinguishes samples whose accuracy is worth knowing apart: masks [samples] by name.
    first_look
        Where a way to the answer begins elsewhere than it ends: the region of 8 by 8 pixels
        (row by row) that has to be found first, or -1 [samples]; None for data without.
    """

    pictures: np.ndarray
    words: np.ndarray
    lengths: np.ndarray
    targets: dict[str, np.ndarray]
    classes: dict[str, tuple[str, ...]]
    vocabulary: tuple[str, ...]
    evidence_word: np.ndarray
    evidence_box: np.ndarray
    kinds: dict[str, np.ndarray]
    first_look: np.ndarray | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.lengths)

    def caption(self, sample: int) -> str:
        """The caption of a sample, as text."""
        return " ".join(self.vocabulary[word] for word in self.words[sample, : self.lengths[sample]])

    def select(self, samples: np.ndarray) -> "CaptionedPictures":
        """Some of the samples, by their indices."""
        return CaptionedPictures(
            pictures=self.pictures[samples],
            words=self.words[samples],
            lengths=self.lengths[samples],
            targets={question: answers[samples] for question, answers in self.targets.items()},
            classes=self.classes,
            vocabulary=self.vocabulary,
            evidence_word=self.evidence_word[samples],
            evidence_box=self.evidence_box[samples],
            kinds={kind: mask[samples] for kind, mask in self.kinds.items()},
            first_look=None if self.first_look is None else self.first_look[samples],
        )
