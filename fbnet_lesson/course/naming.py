"""Which of an exercise's mistakes does a wrong answer make? Those are compared by what they answer.

A name is given only to what behaves like it on every case that was tried. Two mistakes at once are
looked for where no single one does.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fbnet_lesson.course.differences import difference
from fbnet_lesson.course.exercise import Case, Exercise, Mistake, Trial, WrongAnswer
from fbnet_lesson.course.guard import Outcome, call

MOSTLY = 0.6  # share of the cases on which a mistake shows, and shows in the learner's answer too


class Verdict(NamedTuple):
    mistakes: Sequence[Mistake] = ()
    certain: bool = False


class Seen(NamedTuple):
    """What the learner's function answered to a trial, and whether that is wrong."""

    number: int  # of the trial
    outcome: Outcome
    is_wrong: bool


def name(
    exercise: Exercise,
    shown: Case,
    got: Outcome,
    seen: Sequence[Seen],
    judge: Callable[[Trial, Outcome], object],
) -> Verdict:
    """The mistakes that ``got``, the answer to the case ``shown``, and the answers ``seen`` fit.

    ``judge`` says what is wrong with an outcome, or None.
    """
    # Wrong answers first: what does not fit is found out there.
    seen = sorted(seen, key=lambda one: not one.is_wrong)

    def as_shown(answer: WrongAnswer) -> bool:
        return alike(exercise, got, call(answer.function, shown))

    for answers in (exercise.wrong_answers, exercise.pairs):
        fitting = [
            answer
            for answer in answers
            if all(alike(exercise, s.outcome, answer.outcome(s.number)) for s in seen)
            and as_shown(answer)
        ]
        if fitting and _tells(fitting, got, seen):
            common = [m for m in fitting[0].mistakes if all(m in f.mistakes for f in fitting)]
            return Verdict(common, certain=bool(common))
    likely = [
        answer
        for answer in exercise.wrong_answers
        if as_shown(answer) and _shows(exercise, answer, seen, judge)
    ]
    return Verdict(likely[0].mistakes) if len(likely) == 1 else Verdict()


def alike(exercise: Exercise, a: Outcome, b: Outcome) -> bool:
    """Whether two functions did the same."""
    if a.error or b.error:
        return a.error is not None and b.error is not None and a.error.name == b.error.name
    if a.changed != b.changed or a.gradients.keys() != b.gradients.keys():
        return False
    return not difference(
        [a.value, *a.gradients.values()],
        [b.value, *b.gradients.values()],
        exercise.rtol,
        exercise.atol,
    )


def _tells(fitting: list[WrongAnswer], got: Outcome, seen: Sequence[Seen]) -> bool:
    """Whether there is more to go by than errors of one type, which many mistakes can end in."""
    errors = [s for s in seen if s.is_wrong and s.outcome.error]
    if len(errors) < sum(s.is_wrong for s in seen) or not got.error:
        return True
    return all(
        s.outcome.error.text == answer.outcome(s.number).error.text
        for s in errors
        for answer in fitting
    )


def _shows(
    exercise: Exercise,
    answer: WrongAnswer,
    seen: Sequence[Seen],
    judge: Callable[[Trial, Outcome], object],
) -> bool:
    """Whether the mistake of ``answer`` may well be one of several in what was seen.

    Where it shows, the learner's answer is never right, and mostly the same; and it explains at
    least half of what is wrong.
    """
    shows = same = 0
    for s in seen:
        other = answer.outcome(s.number)
        if not judge(exercise.trials[s.number], other):
            continue
        if not s.is_wrong:
            return False
        shows += 1
        same += s.outcome.error is None and alike(exercise, s.outcome, other)
    return same >= max(2, MOSTLY * shows, sum(s.is_wrong for s in seen) / 2)
