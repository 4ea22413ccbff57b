"""The gate: whether a challenger takes the champion's place, decided by the subnet's own reward."""

from dataclasses import fields, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import EvidenceError
from streetvision.evaluation import Interval, Predictions, sequences
from streetvision.registry.decision import Check, Decision, Policy, Status, StratumChange, Verdict
from streetvision.registry.paired import holm, mcnemar, mean_difference
from streetvision.subnet.reward import mean_rewards

__all__ = ["Check", "Decision", "Policy", "StratumChange", "Verdict", "decide"]

_ORDERS = 200  # orders of the answers as they are, of which a reward is the mean (as in a report)


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
        EvidenceError: the two were not asked the same challenges.
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
    found = _without_champion(challenger, policy) if champion is None else _compare(champion, challenger, policy)
    consistency = consistency or Check(
        name="consistency", status="not checked", sentence="the challenger's model directory and card were not given"
    )
    checks = (*_evidence(challenger, policy), *found.checks, _latency(champion, challenger, policy), consistency)
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
    if failed & {"challenges", "groups"}:
        return "not enough evidence"
    return "keep" if failed else "promote"


def _reasons(verdict: Verdict, checks: tuple[Check, ...]) -> tuple[str, ...]:
    status: Status = "passed" if verdict == "promote" else "failed"
    return tuple(check.sentence for check in checks if check.status == status)


def _passed(ok: bool) -> Status:
    return "passed" if ok else "failed"


def _evidence(challenger: Predictions, policy: Policy) -> tuple[Check, Check]:
    n = len(challenger)
    challenges = Check(
        name="challenges",
        status=_passed(n >= policy.min_challenges),
        challenger=n,
        sentence=f"{n} challenges were answered, at least {policy.min_challenges} are needed",
    )
    if challenger.group is None:
        sentence = "challenges do not say which picture they come from, so each counts as independent"
        return challenges, Check(name="groups", status="not checked", sentence=sentence)
    groups = len(np.unique(challenger.group))
    return challenges, Check(
        name="groups",
        status=_passed(groups >= policy.min_groups),
        challenger=groups,
        sentence=f"challenges come from {groups} independent pictures, at least {policy.min_groups} are needed",
    )


def _without_champion(challenger: Predictions, policy: Policy) -> Decision:
    (reward,) = _rewards(policy, challenger)
    accuracy = float(_right(challenger).mean())
    checks = (
        Check(
            name="floor reward",
            status=_passed(reward.low >= policy.floor_reward),
            challenger=reward.low,
            sentence=f"no champion; reward {_show(reward)}, lower bound {policy.floor_reward:g} is needed",
        ),
        Check(
            name="floor accuracy",
            status=_passed(accuracy >= policy.floor_accuracy),
            challenger=accuracy,
            sentence=f"no champion; accuracy {accuracy:.3f}, at least {policy.floor_accuracy:g} is needed",
        ),
    )
    groups = None if challenger.group is None else len(np.unique(challenger.group))
    return Decision(
        verdict="keep",
        reasons=(),
        checks=checks,
        n=len(challenger),
        groups=groups,
        challenger_reward=reward,
        policy=policy,
    )


def _compare(champion: Predictions, challenger: Predictions, policy: Policy) -> Decision:
    champion = _aligned(champion, challenger)
    champion_reward, challenger_reward, gain = _rewards(policy, champion, challenger)
    champion_right, challenger_right = _right(champion), _right(challenger)
    worse = int(np.sum(champion_right & ~challenger_right))
    better = int(np.sum(challenger_right & ~champion_right))
    strata = _strata(champion, challenger)
    checks = (
        Check(
            name="gain",
            status=_passed(gain.mean >= policy.min_gain and gain.low > 0),
            champion=champion_reward.mean,
            challenger=challenger_reward.mean,
            sentence=f"reward changes by {_show(gain, sign='+')} from {champion_reward.mean:.3f} to "
            f"{challenger_reward.mean:.3f}; at least {policy.min_gain:+g} and an interval above 0 are needed",
        ),
        _worst_stratum(strata, policy),
        _brier(champion, challenger),
    )
    return Decision(
        verdict="keep",
        reasons=(),
        checks=checks,
        n=len(challenger),
        groups=None if challenger.group is None else len(np.unique(challenger.group)),
        gain=gain,
        champion_reward=champion_reward,
        challenger_reward=challenger_reward,
        worse=worse,
        better=better,
        p_value=mcnemar(worse, better),
        strata=strata,
        policy=policy,
    )


def _right(predictions: Predictions) -> NDArray[np.bool_]:
    return np.equal(predictions.predicted, predictions.label)


def _aligned(champion: Predictions, challenger: Predictions) -> Predictions:
    """The champion's answers in the challenger's order."""
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
        if (left is None) != (right is None):
            raise EvidenceError(
                f"only one of champion and challenger has the column `{name}`, expected the same challenge set"
            )
        if left is not None and not np.array_equal(left, right):
            row = int(np.argmax(left != right))
            raise EvidenceError(
                f"`{name}` of challenge `{challenger.challenge_id[row]}` is `{left[row]}` for the champion and "
                f"`{right[row]}` for the challenger, expected the same challenge set"
            )
    return aligned


def _rewards(policy: Policy, *models: Predictions) -> tuple[Interval, ...]:
    """Mean reward a challenge of each model over the same resampled sequences, and of two also the gain."""
    n, group = len(models[0]), models[0].group
    rng = np.random.default_rng(policy.seed)
    as_answered = rng.permuted(np.tile(np.arange(n, dtype=np.int32), (_ORDERS, 1)), axis=1)
    resampled = sequences(rng, policy.resamples, n=n, group=group)
    means: list[float] = []
    draws: list[NDArray[np.float64]] = []
    for model in models:
        means.append(float(mean_rewards(model.probability, model.label, as_answered, burn_in=policy.burn_in).mean()))
        draws.append(mean_rewards(model.probability, model.label, resampled, burn_in=policy.burn_in))
    if len(models) == 2:
        means.append(means[1] - means[0])
        draws.append(draws[1] - draws[0])
    bounds = (np.quantile(draw, (0.025, 0.975)).tolist() for draw in draws)
    return tuple(Interval(mean=mean, low=low, high=high) for mean, (low, high) in zip(means, bounds, strict=True))


def _strata(champion: Predictions, challenger: Predictions) -> tuple[StratumChange, ...]:
    champion_right, challenger_right = _right(champion), _right(challenger)
    changes: list[StratumChange] = []
    for source, level in sorted(set(zip(challenger.source.tolist(), challenger.level.tolist(), strict=True))):
        inside = (challenger.source == source) & (challenger.level == level)
        worse = int(np.sum(inside & champion_right & ~challenger_right))
        better = int(np.sum(inside & challenger_right & ~champion_right))
        changes.append(
            StratumChange(
                source=source,
                level=level,
                n=int(inside.sum()),
                champion=float(champion_right[inside].mean()),
                challenger=float(challenger_right[inside].mean()),
                worse=worse,
                better=better,
                p_value=mcnemar(worse, better),
            )
        )
    adjusted = holm([change.p_value for change in changes])
    return tuple(
        change.model_copy(update={"p_value": p_value}) for change, p_value in zip(changes, adjusted, strict=True)
    )


def _worst_stratum(strata: tuple[StratumChange, ...], policy: Policy) -> Check:
    refused = [
        change
        for change in strata
        if change.p_value < policy.stratum_significance and change.challenger - change.champion < -policy.stratum_loss
    ]
    worst = min(refused or strata, key=lambda change: change.challenger - change.champion)
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
        sentence=f"Brier score changes by {_show(change, sign='+')} from {before.mean():.4f} to {after.mean():.4f}; "
        "an interval wholly above 0 is significantly worse",
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


def _show(interval: Interval, *, sign: Literal["", "+"] = "") -> str:
    return f"{interval.mean:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"
