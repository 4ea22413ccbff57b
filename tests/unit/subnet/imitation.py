"""Small sources that are laid out as the subnet's are, one checkout a regime; written for these tests, never run."""

from pathlib import Path

REWARD = "natix/validator/reward.py"
TRACKER = "natix/validator/miner_performance_tracker.py"
FORWARD = "natix/validator/forward.py"
SETTINGS = "natix/validator/config.py"
OPTIONS = "natix/utils/config.py"
TRANSFORMS = "natix/utils/image_transforms.py"
VALIDATOR = "natix/base/validator.py"
WEIGHTS = "natix/base/utils/weight_utils.py"
PROTOCOL = "natix/protocol.py"
NEURON = "neurons/validator.py"

R1 = {
    SETTINGS: """
SIDE: int = 224
TARGET_IMAGE_SIZE: tuple[int, int] = (SIDE, SIDE)
CHALLENGE_TYPE = {0: "nothing", 1: "works"}
REWARD_CURVE_EXPONENT = 3.0
""",
    REWARD: """
from natix.validator.config import REWARD_CURVE_EXPONENT


def compute_penalty(answer):
    if 0.0 <= answer <= 1.0 or answer != answer:
        return 1.0
    return 0.0


def get_rewards(label, responses, uids, axons, performance_trackers):
    earned, details = [], []
    for uid, axon, answer in zip(uids, axons, responses):
        memory = performance_trackers["image"]
        kept = {}
        try:
            if memory.miner_hotkeys.get(uid) != axon.hotkey:
                memory.reset_miner_history(uid, axon.hotkey)
            memory.update(uid, answer, label, axon.hotkey)
            long = memory.get_metrics(uid, window=100)
            short = memory.get_metrics(uid, window=10)
            if answer == -1:
                reward = 0.0
            else:
                reward = 0.5 * long["mcc"] + 0.5 * short["accuracy"]
                reward *= compute_penalty(answer)
                reward = reward ** REWARD_CURVE_EXPONENT
            kept["image"] = reward
        except Exception:
            kept["image"] = 0.0
        earned.append(kept.get("image", 0.0))
        details.append(long)
    return np.array(earned), details
""",
    TRACKER: """
class MinerPerformanceTracker:
    def __init__(self, store_last_n_predictions: int = 100):
        self.size = store_last_n_predictions
        self.miner_hotkeys = {}

    def reset_miner_history(self, uid, hotkey):
        self.answers[uid], self.labels[uid] = deque(maxlen=self.size), deque(maxlen=self.size)

    def update(self, uid, answer, label, hotkey):
        if self.miner_hotkeys.get(uid) != hotkey:
            self.reset_miner_history(uid, hotkey)
        self.answers[uid].append(answer)
        self.labels[uid].append(label)

    def get_metrics(self, uid, window=None):
        answers = list(self.answers[uid])[-window:]
        labels = list(self.labels[uid])[-window:]
        given = [index for index, answer in enumerate(answers) if answer != -1]
        predictions = np.round(np.array([answers[index] for index in given]))
        labels = np.array([labels[index] for index in given])
        try:
            accuracy = accuracy_score(labels, predictions)
            mcc = max(0, matthews_corrcoef(labels, predictions))
        except Exception:
            return {"accuracy": 0, "mcc": 0}
        return {"accuracy": accuracy, "mcc": mcc}
""",
    FORWARD: """
from natix.utils.image_transforms import apply_augmentation_by_level
from natix.validator.config import CHALLENGE_TYPE, TARGET_IMAGE_SIZE
from natix.validator.reward import get_rewards


def determine_challenge_type(real, synthetic, fake_prob=0.5):
    label = np.random.choice(list(CHALLENGE_TYPE.keys()))
    use_synthetic = np.random.rand() < fake_prob
    if use_synthetic:
        task = "i2i" if np.random.rand() < 0.5 else "t2i"
        return label, synthetic[task]
    return label, real


async def forward(self):
    \"\"\"One step.\"\"\"
    label, pool = determine_challenge_type(self.real, self.synthetic, self._fake_prob)
    challenge = pool.sample(label)
    if challenge is None:
        return
    image = challenge["image"]
    try:
        image, level, drawn = apply_augmentation_by_level(image, TARGET_IMAGE_SIZE, None)
    except Exception:
        level = -1
    uids = self.uid_deck.next_k(
        k=self.config.neuron.sample_size, metagraph=self.metagraph, limit=self.config.neuron.vpermit_tao_limit
    )
    axons = [self.metagraph.axons[uid] for uid in uids]
    replies = await self.dendrite(axons=axons, synapse=prepare_synapse(image), deserialize=False, timeout=9)
    answers = [reply.prediction for reply in replies]
    rewards, details = get_rewards(label, answers, uids, axons, self.performance_trackers)
    self.update_scores(rewards, uids)
""",
    VALIDATOR: """
class BaseValidatorNeuron:
    def run(self):
        while True:
            self.loop.run_until_complete(self.forward())
            if self.should_exit:
                break
            time.sleep(60)
            self.step += 1

    def set_weights(self):
        norm = np.linalg.norm(self.scores, ord=1, axis=0, keepdims=True)
        if np.any(norm == 0) or np.isnan(norm).any():
            norm = np.ones_like(norm)
        raw = self.scores / norm
        uids, weights = process_weights_for_netuid(uids=self.metagraph.uids, weights=raw, netuid=72)
        self.subtensor.set_weights(uids=uids, weights=weights)

    def update_scores(self, rewards, uids):
        if np.isnan(rewards).any():
            rewards = np.nan_to_num(rewards, nan=0)
        rewards = np.asarray(rewards)
        if rewards.size == 0:
            return
        if rewards.size != len(uids):
            raise ValueError("sizes differ")
        newest = self.scores.copy()
        newest[self.validators] = 0.0
        newest[uids] = rewards
        alpha: float = self.config.neuron.moving_average_alpha
        self.scores = alpha * newest + (1 - alpha) * self.scores
""",
    WEIGHTS: """
U16_MAX = 65535
""",
    OPTIONS: """
def add_validator_args(cls, parser):
    parser.add_argument("--neuron.epoch_length", type=int, default=100)
    parser.add_argument("--neuron.timeout", type=float, default=10)
    parser.add_argument("--neuron.sample_size", type=int, default=10)
    parser.add_argument("--neuron.moving_average_alpha", type=float, default=0.05)
    parser.add_argument("--neuron.vpermit_tao_limit", type=int, default=40096)
""",
    TRANSFORMS: """
from natix.validator.config import TARGET_IMAGE_SIZE


def get_distortion_parameter(kind, level):
    table = {
        "CS": [0.4, 0.3, 0.2],
        "CC": [0.85, 0.725, 0.6],
        "BW": [16, 32, 48],
        "GNC": [0.001, 0.002, 0.005],
        "GB": [7, 9, 13],
        "JPEG": [2, 3, 4],
    }
    return table[kind][level - 1]


def plain(size=TARGET_IMAGE_SIZE):
    return ComposeWithParams([ToRGB(), center_crop(), Resize(size)])


def easy(size=TARGET_IMAGE_SIZE):
    return ComposeWithParams(
        [ToRGB(), Rotation(20, fill=0), RandomResizedCrop(size, scale=(0.2, 1.0), ratio=(1.0, 1.0)), Flip()]
    )


def medium(size=TARGET_IMAGE_SIZE):
    return ComposeWithParams(
        [
            ToRGB(),
            Rotation(20, fill=0),
            RandomResizedCrop(size, scale=(0.2, 1.0), ratio=(1.0, 1.0)),
            Distortion("CS", level_min=0, level_max=1),
            Distortion("CC", level_min=0, level_max=1),
            Distortion("JPEG", level_min=0, level_max=1),
        ]
    )


def hard(size=TARGET_IMAGE_SIZE):
    return ComposeWithParams(
        [
            ToRGB(),
            Rotation(20, fill=0),
            RandomResizedCrop(size, scale=(0.2, 1.0), ratio=(1.0, 1.0)),
            Distortion("CS", level_min=0, level_max=2),
            Distortion("CC", level_min=0, level_max=2),
            Distortion("JPEG", level_min=0, level_max=2),
            Distortion("GNC", level_min=0, level_max=2),
            Distortion("GB", level_min=0, level_max=2),
        ]
    )


def apply_augmentation_by_level(image, size, mask=None, level_probs={0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25}):
    level = draw(level_probs)
    if level == 0:
        steps = plain(size)
    elif level == 1:
        steps = easy(size)
    elif level == 2:
        steps = medium(size)
    else:
        steps = hard(size)
    return steps(image), level, steps.params
""",
    PROTOCOL: """
def prepare_image_synapse(image):
    buffer = BytesIO()
    image.save(buffer, format="JPEG")
    return ImageSynapse(image=b64encode(buffer.getvalue()))


class ImageSynapse(bt.Synapse):
    testnet_label: int = -1
    image: str = pydantic.Field(title="picture", default="", frozen=False)
    prediction: float = pydantic.Field(title="probability", default=-1.0, frozen=False)
""",
    NEURON: """
class Validator(BaseValidatorNeuron):
    def __init__(self, config=None):
        self._fake_prob = self.config.get("fake_prob", 0.5)
""",
}


def edited(files: dict[str, str], *edits: tuple[str, str, str]) -> dict[str, str]:
    """The files with some texts replaced by others: (file, old, new)."""
    changed = dict(files)
    for name, old, new in edits:
        assert old in changed[name], f"{name} has no {old!r}"
        changed[name] = changed[name].replace(old, new)
    return changed


def moved(files: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    """The files under other names."""
    return {names.get(name, name): content for name, content in files.items()}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


R0 = edited(
    R1,
    (REWARD, "                reward = reward ** REWARD_CURVE_EXPONENT\n", ""),
    (REWARD, "performance_trackers):", "performance_trackers, invalid_uids=None):"),
    (REWARD, "if answer == -1:", "if answer == -1 or uid in invalid_uids:"),
    (FORWARD, "self.uid_deck.next_k(", "get_random_uids("),
    (PROTOCOL, "return ImageSynapse(", "return ExtendedImageSynapse("),
    (PROTOCOL, "\n\nclass ", '\n\nclass ExtendedImageSynapse(ImageSynapse):\n    model_url: str = ""\n\n\nclass '),
)
_CROP = "RandomResizedCrop(size, scale=(0.2, 1.0), ratio=(1.0, 1.0))"
R2 = edited(
    R1,
    (TRANSFORMS, "center_crop(), Resize(size)", "ResizeWithPadding(size)"),
    (TRANSFORMS, f", {_CROP}", ""),
    (TRANSFORMS, f"            {_CROP},\n", ""),
    (TRANSFORMS, "ToRGB(), Rotation", "ToRGB(), ResizeWithPadding(size), Rotation"),
    (TRANSFORMS, "            ToRGB(),\n", "            ToRGB(),\n            ResizeWithPadding(size),\n"),
)
R3 = moved(
    edited(
        R2,
        (
            FORWARD,
            "    use_synthetic = np.random.rand() < fake_prob\n    if use_synthetic:",
            '    source = np.random.choice(["synthetic", "real", "api"])\n    if source == "synthetic":',
        ),
        (FORWARD, "apply_augmentation_by_level(image, TARGET_IMAGE_SIZE, None)", "image, 0, {}"),
        (FORWARD, "from natix.validator.reward import", "from natix.validator.scoring import"),
        (SETTINGS, "REWARD_CURVE", "TASKS_PER_DAY = 1440\nORGANIC_SHARE = 0.10\nREWARD_CURVE"),
        (
            VALIDATOR,
            "class Base",
            "from natix.validator.config import ORGANIC_SHARE, TASKS_PER_DAY\n\n"
            "_DAY_S = 86_400\nPAUSE = max(10, int(_DAY_S / (TASKS_PER_DAY * (1 - ORGANIC_SHARE))))\n\n\nclass Base",
        ),
        (VALIDATOR, "time.sleep(60)", "time.sleep(PAUSE)"),
    ),
    {REWARD: "natix/validator/scoring/reward.py", TRACKER: "natix/validator/scoring/performance_tracker.py"},
)
R4 = edited(
    R3,
    (FORWARD, "    label, pool", '    log("halted")\n    return\n\n    label, pool'),
    (VALIDATOR, "norm = np.linalg.norm(self.scores", "norm = np.linalg.norm(self.burned"),
    (VALIDATOR, "raw = self.scores / norm", "raw = self.burned / norm"),
)
CHECKOUTS = {"R0": R0, "R1": R1, "R2": R2, "R3": R3, "R4": R4}
