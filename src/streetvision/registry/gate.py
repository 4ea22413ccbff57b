"""The gate: whether a challenger takes the champion's place, decided by the subnet's own reward."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import EvidenceError
from streetvision.evidence import Interval, Predictions
from streetvision.registry.decision import Check, Decision, McNemar, Policy, Status, StratumChange, Verdict
from streetvision.registry.paired import holm, mcnemar, mcnemar_two_sided, mean_difference
from streetvision.statistics import percentile_ends, sequences
from streetvision.subnet.reward import mean_rewards

__all__ = ["Check", "Decision", "McNemar", "Policy", "StratumChange", "Verdict", "decide"]

_ORDERS = 200  # orders of the answers as they are, of which a reward is the mean (as in a report)
_BLOCK = 1 << 24  # answers whose places in a sequence are kept at once
_EVIDENCE = ("challenges", "groups")  # the checks without which there is no verdict


def decide(
    champion: Predictions | None,
    challenger: Predictions,
    policy: Policy | None = None,
    *,
    champion_sha256: str | None = None,
    challenger_sha256: str | None = None,
    consistency: Check | None = None,
) -> Decision:
    """Whether the challenger takes the champion's place.

    Args:
        champion: the champion's answers, or nothing where there is none and the floor decides.
        challenger: the challenger's answers to the same challenges, in any order.
        policy: what the challenger has to show.
        champion_sha256: of the champion's `model.onnx`.
        challenger_sha256: of the challenger's `model.onnx`; the champion itself is never promoted over itself.
        consistency: what `modelcard.check_consistency` found in the challenger's model directory, if it was asked.

    Raises:
        EvidenceError: the two were not asked the same challenges, or none.
    """
    policy = policy or Policy()
    if challenger_sha256 is not None and challenger_sha256 == champion_sha256:
        return Decision(
            verdict="keep",
            reasons=(f"challenger is the champion: the same model.onnx, sha256 {challenger_sha256}",),
            n=len(challenger),
            champion_sha256=champion_sha256,
            challenger_sha256=challenger_sha256,
            policy=policy,
        )
    if len(challenger) == 0:
        raise EvidenceError("the challenger answered no challenge", hint="evaluate it on a frozen challenge set")
    if champion is None:
        found = _without_champion(challenger, policy)
    else:
        champion, challenger = _aligned(champion, challenger)
        found = _compare(champion, challenger, policy)
    consistency = consistency or Check(
        name="consistency", status="not checked", sentence="the challenger's model directory and card were not given"
    )
    evidence = _evidence(champion, challenger, policy)
    checks = (*evidence, *found.checks, _latency(champion, challenger, policy), consistency)
    verdict = _verdict(checks)
    return found.model_copy(
        update={
            "verdict": verdict,
            "reasons": _reasons(verdict, checks),
            "checks": checks,
            "champion_sha256": champion_sha256,
            "challenger_sha256": challenger_sha256,
        }
    )


def _verdict(checks: tuple[Check, ...]) -> Verdict:
    failed = {check.name for check in checks if check.status == "failed"}
    if failed.intersection(_EVIDENCE):
        return "not enough evidence"
    return "keep" if failed else "promote"


def _reasons(verdict: Verdict, checks: tuple[Check, ...]) -> tuple[str, ...]:
    if verdict == "promote":  # what it gains first: that there was enough evidence is no reason
        for_it = [check for check in checks if check.status == "passed"]
        return tuple(check.sentence for check in sorted(for_it, key=lambda check: check.name in _EVIDENCE))
    against = (check for check in checks if check.status == "failed")
    return tuple(check.sentence for check in against if verdict == "keep" or check.name in _EVIDENCE)


def _passed(ok: bool) -> Status:
    return "passed" if ok else "failed"


def _evidence(champion: Predictions | None, challenger: Predictions, policy: Policy) -> tuple[Check, Check]:
    n, groups = len(challenger), _groups(challenger)
    challenges = Check(
        name="challenges",
        status=_passed(n >= policy.min_challenges and n > policy.burn_in),
        champion=None if champion is None else n,
        challenger=n,
        sentence=f"{n} challenges were answered, at least {max(policy.min_challenges, policy.burn_in + 1)} are needed",
    )
    if groups is None:
        sentence = "challenges do not say which picture they come from, so each counts as independent"
        return challenges, Check(name="groups", status="not checked", sentence=sentence)
    return challenges, Check(
        name="groups",
        status=_passed(groups >= policy.min_groups),
        champion=None if champion is None else groups,
        challenger=groups,
        sentence=f"challenges come from {groups} independent pictures, at least {policy.min_groups} are needed",
    )


def _groups(predictions: Predictions) -> int | None:
    return None if predictions.group is None else len(np.unique(predictions.group))


def _without_champion(challenger: Predictions, policy: Policy) -> Decision:
    rewards = _rewards(policy, challenger)
    accuracy = float(_right(challenger).mean())
    checks = (
        _unmeasured("floor reward", policy)
        if rewards is None
        else Check(
            name="floor reward",
            status=_passed(rewards[0].low >= policy.floor_reward),
            challenger=rewards[0].low,
            sentence=f"no champion; reward {rewards[0].mean:.4f} {_ends(rewards[0])}, a lower bound of "
            f"{policy.floor_reward:g} is needed",
        ),
        Check(
            name="floor accuracy",
            status=_passed(accuracy >= policy.floor_accuracy),
            challenger=accuracy,
            sentence=f"no champion; accuracy {accuracy:.3f}, at least {policy.floor_accuracy:g} is needed",
        ),
    )
    return Decision(
        verdict="keep",
        reasons=(),
        checks=checks,
        n=len(challenger),
        groups=_groups(challenger),
        challenger_reward=rewards[0] if rewards else None,
        policy=policy,
    )


def _compare(champion: Predictions, challenger: Predictions, policy: Policy) -> Decision:
    rewards = _rewards(policy, champion, challenger)
    before, after, gain = rewards or (None, None, None)
    change = _change(champion, challenger)
    strata = _strata(champion, challenger)
    return Decision(
        verdict="keep",
        reasons=(),
        checks=(*_gain(rewards, policy), _worst_stratum(strata, policy), _brier(champion, challenger)),
        n=len(challenger),
        groups=_groups(challenger),
        gain=gain,
        champion_reward=before,
        challenger_reward=after,
        mcnemar=McNemar(
            worse=int(np.sum(change < 0)),
            better=int(np.sum(change > 0)),
            p_value=mcnemar_two_sided(change, challenger.group),
        ),
        strata=strata,
        policy=policy,
    )


def _right(predictions: Predictions) -> NDArray[np.bool_]:
    return np.equal(predictions.predicted, predictions.label)


def _change(champion: Predictions, challenger: Predictions) -> NDArray[np.int8]:
    """int8[N], 1 where the challenger alone is right, -1 where the champion alone is, else 0."""
    return _right(challenger).astype(np.int8) - _right(champion).astype(np.int8)


def _aligned(champion: Predictions, challenger: Predictions) -> tuple[Predictions, Predictions]:
    """Both, the champion's answers in the challenger's order, and each with the groups that either of them knows."""
    mine, theirs = np.argsort(challenger.challenge_id), np.argsort(champion.challenge_id)
    missing = np.setxor1d(champion.challenge_id, challenger.challenge_id)
    if len(missing):
        raise EvidenceError(
            f"champion answered {len(champion)} challenges and challenger {len(challenger)}, expected the same: "
            f"{len(missing)}, such as `{missing[0]}`, have one answer only",
            hint="evaluate both models on one frozen challenge set",
        )
    rows = np.empty_like(mine)
    rows[mine] = theirs
    aligned = replace(
        champion,
        **{
            name: None if (column := getattr(champion, name)) is None else column[rows]
            for name in (field.name for field in fields(Predictions))
        },
    )
    for name in ("label", "source", "level", "group"):
        left, right = getattr(aligned, name), getattr(challenger, name)
        if left is not None and right is not None and not np.array_equal(left, right):
            row = int(np.argmax(left != right))
            raise EvidenceError(
                f"`{name}` of challenge `{challenger.challenge_id[row]}` is `{left[row]}` for the champion and "
                f"`{right[row]}` for the challenger, expected the same challenge set",
                hint="evaluate both models on one frozen challenge set",
            )
    group = aligned.group if challenger.group is None else challenger.group
    return replace(aligned, group=group), replace(challenger, group=group)


def _rewards(policy: Policy, *models: Predictions) -> tuple[Interval, ...] | None:
    """Mean reward a challenge of each model over the same sequences, and of two also the gain.

    Nothing, where no sequence is longer than the burn-in.
    """
    n, group = len(models[0]), models[0].group
    if n <= policy.burn_in:
        return None
    rng = np.random.default_rng(policy.seed)
    as_answered = rng.permuted(np.tile(np.arange(n, dtype=np.int32), (_ORDERS, 1)), axis=1)
    means = [
        float(mean_rewards(model.probability, model.label, as_answered, burn_in=policy.burn_in).mean())
        for model in models
    ]
    draws = np.concatenate(
        [
            [mean_rewards(model.probability, model.label, orders, burn_in=policy.burn_in) for model in models]
            for orders in _resampled(rng, policy.resamples, n=n, group=group)
        ],
        axis=1,
    )
    if len(models) == 2:
        means.append(means[1] - means[0])
        draws = np.vstack([draws, draws[1] - draws[0]])
    lows, highs = percentile_ends(draws)
    return tuple(
        Interval(mean=mean, low=float(low), high=float(high))
        for mean, low, high in zip(means, lows, highs, strict=True)
    )


def _resampled(
    rng: np.random.Generator, resamples: int, *, n: int, group: NDArray[np.str_] | None
) -> Iterator[NDArray[np.int32]]:
    """The resampled sequences, as many at once as memory should hold of a large set."""
    rows = max(1, _BLOCK // n)
    for start in range(0, resamples, rows):
        yield sequences(rng, min(rows, resamples - start), n=n, group=group)


def _gain(rewards: tuple[Interval, ...] | None, policy: Policy) -> tuple[Check, Check]:
    if rewards is None:
        return _unmeasured("gain", policy), _unmeasured("lower bound", policy)
    before, after, gain = rewards
    return Check(
        name="gain",
        status=_passed(gain.mean >= policy.min_gain),
        champion=before.mean,
        challenger=after.mean,
        sentence=f"reward changes by {gain.mean:+.4f} from {before.mean:.4f} to {after.mean:.4f}, at least "
        f"{policy.min_gain:+g} is needed",
    ), Check(
        name="lower bound",
        status=_passed(gain.low > 0),
        champion=before.mean,
        challenger=after.mean,
        sentence=f"95 % interval of the change of reward is {_ends(gain, sign='+')}, all of it above 0 is needed",
    )


def _unmeasured(name: str, policy: Policy) -> Check:
    sentence = f"no challenge is left after the first {policy.burn_in}, whose rewards do not count"
    return Check(name=name, status="not checked", sentence=sentence)


def _strata(champion: Predictions, challenger: Predictions) -> tuple[StratumChange, ...]:
    before, after, change = _right(champion), _right(challenger), _change(champion, challenger)
    strata: list[StratumChange] = []
    for source, level in sorted(set(zip(challenger.source.tolist(), challenger.level.tolist(), strict=True))):
        inside = (challenger.source == source) & (challenger.level == level)
        strata.append(
            StratumChange(
                source=source,
                level=level,
                n=int(inside.sum()),
                champion=float(before[inside].mean()),
                challenger=float(after[inside].mean()),
                worse=int(np.sum(change[inside] < 0)),
                better=int(np.sum(change[inside] > 0)),
                p_value=mcnemar(change[inside], None if challenger.group is None else challenger.group[inside]),
            )
        )
    adjusted = holm([stratum.p_value for stratum in strata])
    return tuple(
        stratum.model_copy(update={"p_value": p_value}) for stratum, p_value in zip(strata, adjusted, strict=True)
    )


def _worst_stratum(strata: tuple[StratumChange, ...], policy: Policy) -> Check:
    refused = [one for one in strata if one.p_value < policy.stratum_significance and _loss(one) > policy.stratum_loss]
    worst = max(refused or strata, key=_loss)
    verb = "is significantly worse" if refused else "fares worst"
    return Check(
        name="strata",
        status=_passed(not refused),
        champion=worst.champion,
        challenger=worst.challenger,
        sentence=f"stratum `{worst.source}` level {worst.level} {verb}: accuracy {worst.champion:.3f} to "
        f"{worst.challenger:.3f} on {worst.n} challenges (p = {worst.p_value:.2g}); "
        f"{len(refused)} of {len(strata)} strata are refused",
    )


def _loss(stratum: StratumChange) -> float:
    """Accuracy lost, from counts: a loss of exactly two points is not more than two points."""
    return (stratum.worse - stratum.better) / stratum.n


def _brier(champion: Predictions, challenger: Predictions) -> Check:
    if champion.calibrated is None or challenger.calibrated is None:
        sentence = "the calibrated probabilities of both models were not given"
        return Check(name="brier", status="not checked", sentence=sentence)
    before = (champion.calibrated - champion.label) ** 2
    after = (challenger.calibrated - challenger.label) ** 2
    change = mean_difference(after - before, challenger.group)
    return Check(
        name="brier",
        status=_passed(change.low <= 0),
        champion=float(before.mean()),
        challenger=float(after.mean()),
        sentence=f"Brier score changes by {change.mean:+.4f} {_ends(change, sign='+')} from {before.mean():.4f} to "
        f"{after.mean():.4f}, an interval all above 0 is significantly worse",
    )


def _latency(champion: Predictions | None, challenger: Predictions, policy: Policy) -> Check:
    before, after = _p99_ms(champion), _p99_ms(challenger)
    if after is None:
        return Check(name="latency", status="not checked", champion=before, sentence="the latency was not measured")
    return Check(
        name="latency",
        status=_passed(after < policy.max_p99_ms),
        champion=before,
        challenger=after,
        sentence=f"99 % of answers take at most {after:.0f} ms, under {policy.max_p99_ms:g} ms is needed",
    )


def _p99_ms(predictions: Predictions | None) -> float | None:
    if predictions is None or predictions.latency_ms is None:
        return None
    measured = predictions.latency_ms[np.isfinite(predictions.latency_ms)]
    return float(np.quantile(measured, 0.99)) if len(measured) else None


def _ends(interval: Interval, *, sign: Literal["", "+"] = "") -> str:
    return f"[{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"
