"""What a profile needs, before anything is downloaded: memory, operations, hours, disk.

Memory is what torch's allocator holds at the highest moment of a training step, in bytes by part,
added up from what `layer_costs` says of each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from transformers import PreTrainedConfig

from realqa_utils.experiments import chain_of_thought, granularity, monitoring, objectives, tracking
from realqa_utils.planning import layer_costs as layers
from realqa_utils.planning.layer_costs import Mode, Step
from realqa_utils.planning.model_shapes import Parameters, patch_numbers
from realqa_utils.profiles import Profile, unknown
from realqa_utils.training.recipes import Recipe

GIB = 2**30
#: Bytes of a weight. NF4: half a byte, and a float32 scale for every 64 of them.
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "nf4": 0.5 + 4 / 64}
CONTEXT = 1 * GIB  # of a GPU, for CUDA and its libraries: an allowance, not measured
GAPS = 0.08  # share on top, for what the allocator cannot use: an allowance, not measured
BRANCHES = 10  # of a digit tree that are run at once, as of a trained model
ROOM = 128  # free columns of the cache behind the prompt


@dataclass(frozen=True)
class Setup:
    """How trainings are laid out on the hardware. Raises ValueError for other words."""

    weights: str = "float32"  # float32 | bfloat16 | nf4
    checkpointing: bool = False  # layers are run again in the backward pass, not kept
    gpus: int = 0  # each with the whole model (DDP); 0: a CPU

    def __post_init__(self) -> None:
        if self.weights not in WEIGHT_BYTES:
            raise ValueError(unknown("kind of weights", self.weights, WEIGHT_BYTES))

    @property
    def bytes(self) -> int:
        """Of an activation: float32, or bf16 autocast around bfloat16 or NF4 weights."""
        return 4 if self.weights == "float32" else 2

    def modes(self, recipe: Recipe) -> tuple[Mode, Mode]:
        """Of vision and language."""
        said, mask = self.bytes, 1 if self.gpus else self.bytes
        # a GPU's autocast has layer norms in float32, and 4-bit linears answer as they are asked
        seen = 4 if self.weights == "nf4" and self.gpus else said
        return tuple(
            Mode(trained, recipe.rank, recipe.dropout, size, mask)
            for trained, size in ((recipe.vision, seen), (recipe.language, said))
        )


def setup(profile: Profile, gpus: int = 0) -> Setup:
    """How a profile's trainings are laid out: on one GPU at least, but those in float32."""
    recipe = profile.recipe
    least = int(recipe.weights != "float32")
    return Setup(recipe.weights, recipe.checkpointing, max(gpus, least))


# --- memory --------------------------------------------------------------------------------------


def training_memory(
    config: PreTrainedConfig, count: Parameters, recipe: Recipe, setup: Setup, step: Step
) -> dict[str, float]:
    """Bytes by part at the highest moment of a training step, on every GPU."""
    is_lora = recipe.language == "lora"
    own = 4 if is_lora else WEIGHT_BYTES["float32" if setup.weights == "float32" else "bfloat16"]
    gradients = own * count.trained
    if setup.gpus > 1:
        gradients *= 2  # what is sent lies beside them
    standing = {
        "weights": weight_bytes(count, setup.weights),
        # and as bf16, while autocast lasts
        "adapters": is_lora * (own + (2 if setup.bytes == 2 else 0)) * count.trained,
        "optimiser": own * (2 * count.trained - (recipe.optimiser == "muon") * count.matrices),
    }
    # gradients of the batch before stay where a step has several
    through = {"gradients": gradients * (recipe.accumulation > 1 or setup.gpus > 1)}
    through |= passing(config, count, recipe, setup, step)
    moments = (standing | through, standing | {"gradients": gradients})
    return _with_allowance(_highest(moments), setup)


def passing(
    config: PreTrainedConfig, count: Parameters, recipe: Recipe, setup: Setup, step: Step
) -> dict[str, float]:
    """Of the photographs of a step, what is kept for the backward pass, and its working memory."""
    modes = setup.modes(recipe)
    if setup.checkpointing:
        seen, said, work = layers.again_bytes(config, modes, step)
    else:
        seen = layers.vision_bytes(config, modes[0], step)
        said = layers.language_bytes(config, modes[1], step)
        work = layers.loss_bytes(config, step)
    # the Trainer collects all batches of a step; on a CPU the next one is there too
    batches = (recipe.accumulation + (not setup.gpus)) * (recipe.vision != "frozen")
    pixels = 4 * patch_numbers(config) * step.rows * step.patches
    unpacked = 2 * count.largest * (setup.weights == "nf4")  # one linear at a time
    return {
        "photographs": batches * pixels,
        "activations, vision": seen,
        "activations, language": said,
        "loss, or a layer run backwards": work + unpacked,
    }


def weight_bytes(count: Parameters, weights: str) -> float:
    """Bytes of the base model. NF4 is for the linears of layers and blocks; the rest is bf16."""
    packed = count.linear if weights == "nf4" else 0
    rest = WEIGHT_BYTES["bfloat16" if packed else weights] * (count.base - packed)
    return WEIGHT_BYTES["nf4"] * packed + rest


def scoring_memory(
    config: PreTrainedConfig,
    count: Parameters,
    setup: Setup,
    step: Step,
    nodes: int = 2 * BRANCHES,
) -> dict[str, float]:
    """Bytes by part at the highest moment of scoring a batch with the digit tree, adapters merged.

    `nodes` of a photograph's tree are run at once: of each branch a digit and, at first, a point.
    The tower has done its work before the cache is made.
    """
    text, seen, size = config.text_config, config.vision_config, setup.bytes
    tokens, patches = step.rows * step.columns, step.rows * step.patches
    width = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    cache = 2 * text.num_hidden_layers * width * size * step.rows * (step.columns + ROOM)
    # of the tower pixels, also as float32, and an MLP: its input, three times what is inside
    pixels = patch_numbers(config) * (4 if size == 4 else 6)
    tower = patches * (pixels + seen.embed_dim * (1 + 3 * seen.mlp_ratio) * size)
    layer = tokens * (2 * text.hidden_size + 3 * text.intermediate_size) * size
    # logits of all nodes as they come, as float32, as probabilities
    tree = (size + (8 if size == 2 else 4)) * nodes * step.rows * text.vocab_size
    seeing = {"tower": tower, "cache of keys and values": 0, "layer or digit tree": 0}
    reading = {
        "tower": patches * patch_numbers(config) * 2 * (size == 2),  # pixels wait, on a GPU
        "cache of keys and values": cache,
        "layer or digit tree": max(layer, tree),
    }
    weights = {"weights": weight_bytes(count, setup.weights)}
    return _with_allowance(_highest((weights | seeing, weights | reading)), setup)


def _highest(moments: Iterable[dict[str, float]]) -> dict[str, float]:
    return max(moments, key=lambda parts: sum(parts.values()))


def _with_allowance(parts: Mapping[str, float], setup: Setup) -> dict[str, float]:
    extra = CONTEXT + GAPS * sum(parts.values()) if setup.gpus else 0
    return {**parts, "allowance": extra}


# --- operations and hours ------------------------------------------------------------------------


def training_flops(
    config: PreTrainedConfig, recipe: Recipe, setup: Setup, step: Step
) -> dict[str, float]:
    """Operations of one forward and backward pass, those that checkpointing repeats apart.

    Backward, a product costs as much for its input and again for its weights, where they are
    trained; attention 2.5 times as much as forward, since its kernels keep no weights.
    """
    rank = recipe.rank if recipe.language == "lora" else 0
    said = layers.language_flops(config, step, rank)
    sides = [(said, 2 if recipe.language == "full" else 1)]
    if recipe.vision != "frozen":
        seen = layers.vision_flops(config, step, rank if recipe.vision == "lora" else 0)
        sides.append((seen, 2 if recipe.vision == "full" else 1))
    forward = sum(sum(side.values()) for side, _ in sides)
    again = sum(side["layers"] + side["lora"] + side["attention"] for side, _ in sides)
    backward = sum(_backward(side, passes) for side, passes in sides)
    return {"forward": forward, "backward": backward, "again": again * setup.checkpointing}


def _backward(side: Mapping[str, float], passes: int) -> float:
    dense = side["layers"] + side.get("head", 0) + side.get("merger", 0)
    embedding = side.get("embedding", 0) * (passes - 1)  # of pixels no gradient is asked
    return passes * dense + 2 * side["lora"] + 2.5 * side["attention"] + embedding


def scoring_flops(config: PreTrainedConfig, step: Step) -> float:
    """Operations for one photograph: tower, prompt, and the branches of its digit tree."""
    one = replace(step, rows=1, columns=step.columns + 2 * BRANCHES, answers=1 + 2 * BRANCHES)
    sides = layers.vision_flops(config, one), layers.language_flops(config, one)
    return sum(sum(side.values()) for side in sides)


class Training(NamedTuple):
    """Trainings of a notebook that no notebook before it has done."""

    notebook: str
    what: str
    recipe: Recipe
    count: int
    kept: int  # whose weights stay on disk


def trainings(profile: Profile) -> list[Training]:
    """All trainings of a profile, by notebook; what several share stands with the first."""
    seeds, on_mini = len(profile.seeds), profile.data == "mini"
    own, chains, told = profile.stage_1.form, profile.chains, len(granularity.seeds(profile))
    half = replace(profile.recipe, steps=profile.recipe.steps // 2)
    sets = 2 if on_mini else 1
    rows = [
        Training("00", "first look", profile.recipe, 1, 0),
        Training("02", f"stage 1, {own}", granularity.recipe(profile, own), told, told),
    ]
    rows += [
        Training("03", f"stage 1, {form}", granularity.recipe(profile, form), told, 0)
        for form in granularity.ASKED
        if form != own
    ]
    digits, ways = 4, len(objectives.METHODS) - 1  # the digits are notebook 05's
    rows += [
        Training(
            "05", "M = 1, 2, 3, 4", profile.recipe, digits * sets * seeds, digits * sets * seeds
        ),
        Training("06", "NCM curves", half, len(monitoring.conditions(profile)) * seeds, 0),
        Training("07", "other objectives", profile.recipe, ways * seeds, ways * seeds),
        Training("08", "direct only", chain_of_thought.direct_recipe(profile), seeds, seeds),
        Training("08", "direct and chains", chains, seeds, seeds),
    ]
    brief = chain_of_thought.direct_recipe(profile, len(chain_of_thought.FORMS))
    if brief != profile.recipe:  # else they are notebook 05's
        rows.append(Training("08", chain_of_thought.BRIEF, brief, seeds, seeds))
    if on_mini:
        noisy, others = len(chain_of_thought.NOISE), len(tracking.IMAGE_SETS) - 1
        spoilt = replace(chains, form="cot_regular", steps=chains.steps // 2)
        rows += [
            Training("08", "noisy labels", spoilt, noisy, noisy),
            Training("09", "other sets", profile.recipe, others, others),
        ]
    return rows


def hours(flops: float, tflops: float, utilisation: float, gpus: int = 1) -> float:
    """Hours for so many operations on GPUs of so many 10^12 a second, of which a share is used."""
    return flops / (tflops * 1e12 * utilisation * max(1, gpus)) / 3600


# --- disk ----------------------------------------------------------------------------------------

#: Public sets: a usual size in pixels where the set has one, and GB of the archives, roughly.
SETS: dict[str, tuple[tuple[int, int] | None, float]] = {
    "koniq": ((1024, 768), 6.4),
    "spaq": (None, 34.8),
    "livec": ((500, 500), 0.3),
    "ava": ((640, 480), 33.2),
    "tad66k": (None, 10.7),
    "konvid": ((960, 540), 2.5),
}


def disk(profile: Profile, count: Parameters) -> dict[str, float]:
    """Bytes on disk by what they are for; the sets' archives beside what is unpacked from them.

    Of a model that was trained by LoRA the adapter alone is kept.
    """
    is_lora = profile.recipe.language == "lora"
    saved = 12 * count.trained + (0 if is_lora else 4 * (count.base - count.trained))
    kept = sum(training.kept for training in trainings(profile))
    is_mini = profile.model == "mini"
    return {
        "weights, as downloaded": 0 if is_mini else 2 * count.base,
        "checkpoints: the last, and one being written": 0 if is_mini else 2 * saved,
        f"{kept} trained {'adapters' if is_lora else 'models, whole'}, in float32": (
            4 * kept * (count.trained if is_lora else count.base)
        ),
        "public sets": 0 if profile.data == "mini" else 2e9 * sum(gb for _, gb in SETS.values()),
    }
