"""What an experiment is. Every key of a YAML file in `configs/` is a field on this page.

Units: lengths in px of the resized image, times in epochs or steps as named, learning rates as
the optimiser sees them. A part of the program gets its own dataclass, never the whole.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal  # jsonargparse resolves these on Python 3.10, too

NECKS = ("fpn", "light_fpn", "bare_fpn", "cem", "none")


@dataclass
class DataConfig:
    """The images and how they are shown to the networks.

    Args:
        train: COCO file to train on.
        val: COCO file to judge on after each epoch.
        images: folder of the images; without it the COCO file says where they are.
        image_size: longest side in px after resizing; the aspect ratio is kept.
        augment: name of an augmentation in `detkd/data/augment.py`.
        copy_paste: chance that cells of another image are pasted into a training image.
        overlay: chance that another image is laid over a training image.
        views: how many augmented views of an image there are, shown in turn and the same for every
            seed, so that what the teacher says of them can be kept; 0 draws a new one each epoch.
        cache: where decoded and resized images are kept: memory, disk or none.
        workers: processes that load data; 0 loads in the main process.
        skip_missing: leave images out that are not on disk, instead of refusing.
        unlabelled: frames without annotations for the teacher to speak on: a folder of images, or a
            COCO file whose boxes are not looked at.
        unlabelled_share: such frames for each annotated image of a batch.
    """

    train: str
    val: str
    images: str | None = None
    image_size: int = 320
    augment: str = "microscope"
    copy_paste: float = 0.0
    overlay: float = 0.0
    views: int = 0
    cache: Literal["none", "memory", "disk"] = "memory"
    workers: int = 0
    skip_missing: bool = False
    unlabelled: str | None = None
    unlabelled_share: float = 1.0


@dataclass
class ModelConfig:
    """A Faster R-CNN: backbone, neck, region proposals and RoI head.

    Args:
        backbone: resnet18|34|50|101, vgg11|16 (batch norm), vgg11|16_plain, mobilenet_v2,
            mobilenet_v3_small|large, shufflenet_v2_x0_5|x1_0, squeezenet, timm/NAME, shallow_xW or
            shallow_xW_dD (width W, D blocks a stage), NAME@c3 (the stages of NAME up to c3).
        weights: start of the backbone: 'imagenet' (downloaded), a file of weights, a checkpoint of
            detkd, or none.
        frozen_stages: how many stages, from the image on, are not trained.
        frozen_norm: keep the backbone's batch norm statistics and scales as they are.
        neck: fpn, light_fpn (depthwise-separable), bare_fpn (sums without a convolution behind
            them), cem (each level from its own stage, the next one and the mean of the frame) or
            none (one level, 1x1 projection).
        neck_channels: channels of every level.
        levels: levels that the heads see; those deeper than the backbone are pooled.
        rpn: light (depthwise 5x5, pointwise) or full (3x3 convolution), before the RPN's outputs.
        head_width: width of the two fully connected layers of the RoI head.
        roi_size: cells a side that RoIAlign cuts out.
        roi_features: plain (all channels of a level), thin (levels reduced to few channels first)
            or psroi (channels of its own for each cell of a RoI: position-sensitive RoIAlign).
        roi_channels: values a cell of thin and psroi features; plain ones have neck_channels.
        roi_scale: side in px of an object that is read from level p4.
        classifier: of the RoI head: softmax (over classes and background) or sigmoid (each class
            alone; background is where none is seen).
        anchor_sizes: sides in px for each level, or 'fit' to measure them on the training boxes (a
            student takes its teacher's).
        anchor_ratios: height over width.
        rpn_samples: anchors an image that the RPN learns from.
        roi_samples: proposals an image that the RoI head learns from.
        proposals: proposals an image after non-maximum suppression, in training and after it.
        detections: detections an image at most.
        score_threshold: detections below it are dropped.
        nms: overlap above which the weaker of two detections of a class is dropped.
    """

    backbone: str = "shallow_x1"
    weights: str | None = None
    frozen_stages: int = 0
    frozen_norm: bool = False
    neck: Literal["fpn", "light_fpn", "bare_fpn", "cem", "none"] = "light_fpn"
    neck_channels: int = 128
    levels: list[str] = field(default_factory=lambda: ["p2", "p3", "p4", "p5"])
    rpn: Literal["light", "full"] = "light"
    head_width: int = 256
    roi_size: int = 7
    roi_features: Literal["plain", "thin", "psroi"] = "plain"
    roi_channels: int = 10
    roi_scale: float = 112.0
    classifier: Literal["softmax", "sigmoid"] = "softmax"
    anchor_sizes: Literal["fit"] | list[list[float]] = "fit"
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    rpn_samples: int = 256
    roi_samples: int = 64
    proposals: int = 300
    detections: int = 100
    score_threshold: float = 0.02
    nms: float = 0.5


@dataclass
class ScheduleConfig:
    """When a distillation term counts; shares are of the whole training, from 0 to 1.

    Args:
        start: share before which the term is off.
        stop: share from which it is off again.
        warmup: steps over which its weight grows from 0, after the start.
        decay: how its weight falls to 0 at the stop: none, linear or cosine.
        every: it counts at each n-th step alone, n-fold, and costs an n-th.
    """

    start: float = 0.0
    stop: float = 1.0
    warmup: int = 0
    decay: Literal["none", "linear", "cosine"] = "none"
    every: int = 1


@dataclass
class PublishedWeight:
    """A weight as the loss's paper states it, in the paper's own sums and means.

    Args:
        published: converted to ours at the paper's setting, as docs/methods.md says.
    """

    published: float


@dataclass
class TermConfig:
    """One weighted distillation loss.

    Args:
        name: a loss of `detkd/distill/losses`, or my_module:MyLoss.
        at: features it compares, such as p3 or roi.logits.
        weight: factor in front of the mean loss, or {published: W}; with `balance: auto` its pull
            as a share of the task's.
        options: arguments of the loss.
        schedule: when it counts.
    """

    name: str
    at: list[str]
    weight: float | PublishedWeight = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


Take = Literal["none", "inherit", "freeze", "joint"]


@dataclass
class HeadsConfig:
    """What the student takes of each part, where they differ.

    Args:
        neck: none, inherit (and go on training), freeze (and keep) or joint (one for both).
        rpn: the same of the region proposal network.
        roi_heads: the same of the RoI head.
    """

    neck: Take = "inherit"
    rpn: Take = "inherit"
    roi_heads: Take = "inherit"


def the_answers() -> list[TermConfig]:
    """What the teacher's heads say of classes and boxes: the recipe of docs/choosing.md."""
    said = {
        "kl": "roi.logits",
        "boxes": "roi.boxes",
        "objectness": "rpn.logits",
        "proposal_boxes": "rpn.boxes",
    }
    return [TermConfig(name, [feature], 4.0) for name, feature in said.items()]


@dataclass
class DistillConfig:
    """The teacher and what the student takes from it.

    Args:
        teacher: checkpoint of the teacher.
        heads: what of the teacher's neck, RPN and RoI head the student takes: none, inherit (and go
            on training), freeze (and keep), joint (one head that both train), or each apart.
        losses: the distillation terms; without them the four answers of the teacher's heads (kl,
            boxes, objectness, proposal_boxes), weight 4 each; [] for none.
        freeze_until: share of the training after which frozen parts are trained on.
        thawed_lr: factor on the learning rate of parts that were frozen.
        task_from: share of the training before which the annotations do not count, and the
            student learns from the teacher alone.
        balance: fixed weights; auto (a weight is the term's pull at the backbone as a share of the
            task's); or surgery (a term that pulls against the task sits out the step).
        pseudo: on frames without annotations the teacher's boxes of this score or more count as
            labels; without it only the terms count there.
        ignore: boxes from this score up to `pseudo` are no examples of background either.
        precision: of the teacher's backbone and neck: that of the student (same), bf16 or fp16.
        cache: folder for the teacher's features, which are then computed once a view; views have
            to come again: by data.views, or an augmentation with few (none, flip, turns).
        preflight: validation images on which the teacher is judged before the first step; 0 trusts
            it unseen.
    """

    teacher: str
    heads: Take | HeadsConfig = "inherit"
    losses: list[TermConfig] = field(default_factory=the_answers)
    freeze_until: float = 1.0
    thawed_lr: float = 0.1
    task_from: float = 0.0
    balance: Literal["fixed", "auto", "surgery"] = "fixed"
    pseudo: float | None = None
    ignore: float = 0.2
    precision: Literal["same", "bf16", "fp16"] = "same"
    cache: str | None = None
    preflight: int = 48


@dataclass
class TrainConfig:
    """How the weights are found.

    Args:
        epochs: passes over the training images.
        batch_size: images a step and process.
        optimizer: adamw or sgd (with Nesterov momentum).
        lr: highest learning rate.
        backbone_lr: factor on the backbone's learning rate.
        weight_decay: not applied to norms and biases.
        momentum: of sgd.
        schedule: cosine, step (a tenth at 2/3 and at 8/9 of the steps), one_cycle or constant.
        warmup: steps over which the learning rate grows linearly; one_cycle has a rise of its own,
            of 30 % of the steps.
        ema: decay of the averaged weights that are judged and kept; 0 keeps the last ones.
        clip: largest norm of the gradient; 0 does not clip.
        accumulate: batches whose gradients are added up before a step.
        precision: 32, bf16 or fp16 (mixed).
        early_stop: epochs without a better score after which training ends; 0 never does.
        judge_every: epochs between two validations.
        save_every: steps between two checkpoints, besides the one at each epoch's end; 0 for none.
        seed: of weights, order, augmentation and sampling.
        deterministic: ask torch for deterministic algorithms.
        device: auto, cpu or cuda.
        threads: CPU threads of torch; 0 takes all cores.
    """

    epochs: int = 24
    batch_size: int = 8
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1.0e-3
    backbone_lr: float = 1.0
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: Literal["cosine", "step", "one_cycle", "constant"] = "cosine"
    warmup: int = 100
    ema: float = 0.998
    clip: float = 10.0
    accumulate: int = 1
    precision: Literal["32", "bf16", "fp16"] = "32"
    early_stop: int = 0
    judge_every: int = 1
    save_every: int = 0
    seed: int = 0
    deterministic: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0


@dataclass
class SelfTeachConfig:
    """What the exits of a classifier learn from its deepest one.

    Args:
        temperature: T of the softened probabilities.
        alpha: share of the deepest exit's word; the label has the rest.
        hint: lambda, weight of the distance from the deepest features.
        scale_by_temperature: multiply the softened part by T squared.
    """

    temperature: float = 3.0
    alpha: float = 0.3
    hint: float = 0.03
    scale_by_temperature: bool = False


@dataclass
class ExitsConfig(SelfTeachConfig):
    """Exits on a detector's backbone while it is trained, and what they learn.

    Args:
        temperature: T of the softened probabilities.
        alpha: share of the RoI head's word; the label has the rest.
        hint: lambda, weight of the distance from the deepest stage.
        scale_by_temperature: multiply the softened part by T squared.
        exits: stages of the backbone on which an exit sits, such as [c2, c3, c4].
        exit_attention: in each exit: none or eca.
    """

    exits: list[str] = field(default_factory=list)
    exit_attention: Literal["none", "eca"] = "eca"


@dataclass
class Experiment:
    """One training run.

    Args:
        data: images and annotations.
        model: the network that is trained.
        train: how it is trained.
        distill: its teacher; without one the network learns from the annotations alone.
        self_distill: exits on its backbone, which learn from its RoI head while it is trained.
        name: of the run folder, runs/NAME, unless --run says otherwise.
    """

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig | None = None
    self_distill: ExitsConfig | None = None
    name: str = "run"

    def as_dict(self) -> dict[str, Any]:
        """The experiment as plain values, ready for YAML, JSON and checkpoints."""
        return asdict(self)


@dataclass
class ClassDataConfig:
    """Images with one label each, and how they are shown to a classifier.

    Args:
        train: folder of class folders, or a CSV of file, label and group.
        val: such a source to judge on after each epoch; without it, and without folds, `train` is
            divided by `ratios` into train, val and test.
        group_pattern: regular expression; images without a group, in whose names its brackets hold
            the same, are one group.
        group_gap: with it, the brackets of `group_pattern` hold a number, such as seconds of the
            camera's clock, and images whose numbers follow each other within the gap are one group;
            0 for none. Without a pattern it is not looked at.
        ratios: shares of train, val and test; no group is on two sides.
        split_seed: another one, another division; seeds of the training share it.
        folds: of a k-fold validation, after the test share was taken away; 0 for none.
        fold: which of them is validated on, from 0.
        leave_out: classes that are not looked at.
        image_size: side in px; a crop stands on a square of the colour of its border.
        augment: name of an augmentation in `detkd/data/augment.py`.
        randaugment: operations of RandAugment on top; 0 for none.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of cutmix; 0 for none.
        balance: 0 draws images alike, 1 classes alike, between them in part.
        views: how many augmented views of an image there are, shown in turn and the same for every
            seed, so that what the teacher says of them can be kept; 0 draws a new one each epoch.
        cache: where decoded images are kept: memory or none.
        workers: processes that load data; 0 loads in the main process.
    """

    train: str
    val: str | None = None
    group_pattern: str | None = None
    group_gap: float = 0.0
    ratios: list[float] = field(default_factory=lambda: [0.7, 0.15, 0.15])
    split_seed: int = 0
    folds: int = 0
    fold: int = 0
    leave_out: list[str] = field(default_factory=list)
    image_size: int = 96
    augment: str = "turns"
    randaugment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    balance: float = 0.0
    views: int = 0
    cache: Literal["none", "memory"] = "memory"
    workers: int = 0


@dataclass
class ClassifierConfig:
    """A classifier: a backbone, what lies between it and the classes, and exits on its stages.

    Args:
        backbone: resnet18|34|50|101, vgg11|16 (batch norm), vgg11|16_plain, mobilenet_v2,
            mobilenet_v3_small|large, shufflenet_v2_x0_5|x1_0, squeezenet, timm/NAME, shallow_xW or
            shallow_xW_dD.
        weights: start of the backbone: 'imagenet' (downloaded), a file of weights, a checkpoint of
            detkd, or none.
        frozen_stages: how many stages, from the image on, are not trained.
        attention: behind each stage: none, cbam (channels, then cells) or eca (channels).
        convolutions: full; grouped (with `groups`, and channels shuffled behind them) or depthwise
            (separable) in place of every convolution of 3x3 or more.
        groups: of grouped convolutions: the greatest number up to it that divides both widths.
        head: pooled (mean over cells, then one linear layer) or published (with the layers that
            the published network has between the two).
        dropout: before the linear layer of a pooled head.
        exits: stages on which a classifier of its own sits, such as [c2, c3, c4].
        exit_attention: in each exit: none or eca.
        cut: the network ends with an exit on this stage, and nothing behind it is there; so trained
            it is the shallow network alone.
    """

    backbone: str = "shallow_x1"
    weights: str | None = None
    frozen_stages: int = 0
    attention: Literal["none", "cbam", "eca"] = "none"
    convolutions: Literal["full", "grouped", "depthwise"] = "full"
    groups: int = 8
    head: Literal["pooled", "published"] = "pooled"
    dropout: float = 0.0
    exits: list[str] = field(default_factory=list)
    exit_attention: Literal["none", "eca"] = "eca"
    cut: str | None = None


@dataclass
class LabelLossConfig:
    """What a wrong label costs.

    Args:
        name: cross_entropy, focal, or logit_adjusted (by the classes' shares of the training images
            as data.balance draws them).
        smoothing: share of the label that is spread over all classes.
        gamma: of focal: how much what is easy is passed over.
        tau: of logit_adjusted: 1 aims at the mean over classes, 0 is cross entropy.
        weight: of the whole beside what is distilled.
    """

    name: Literal["cross_entropy", "focal", "logit_adjusted"] = "cross_entropy"
    smoothing: float = 0.0
    gamma: float = 2.0
    tau: float = 1.0
    weight: float = 1.0


def the_answer() -> list[TermConfig]:
    """What a classifier's teacher says of the classes: the recipe of docs/marine.md."""
    return [TermConfig("kl", ["logits"], 1.0, {"temperature": 4.0})]


@dataclass
class TeachConfig:
    """The teacher of a classifier and what the student learns from it.

    Args:
        teacher: checkpoint of the teacher.
        losses: the distillation terms, at logits, pooled and c2..c5; without them softened classes
            (kl at logits, temperature 4, weight 1).
        balance: fixed weights; auto (a weight is the term's pull at the backbone as a share of the
            task's); or surgery (a term that pulls against the task sits out the step).
        cache: keep what the teacher says of each view, and compute it once; views have to come
            again: by data.views, or an augmentation with few (none, flip, turns).
        cache_folder: where; without it a folder of detkd's own ($DETKD_CACHE or ~/.cache/detkd).
        preflight: validation images on which the teacher is judged before the first step; 0 trusts
            it unseen.
    """

    teacher: str
    losses: list[TermConfig] = field(default_factory=the_answer)
    balance: Literal["fixed", "auto", "surgery"] = "fixed"
    cache: bool = False
    cache_folder: str | None = None
    preflight: int = 96


@dataclass
class ClassifierExperiment:
    """One training run of a classifier.

    Args:
        data: images and labels.
        model: the network that is trained.
        loss: what a wrong label costs.
        train: how it is trained.
        distill: its teacher; without one the network learns from the labels alone.
        self_distill: what its exits learn from the deepest one (needs model.exits).
        name: of the run folder, runs/NAME, unless --run says otherwise.
    """

    data: ClassDataConfig
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    loss: LabelLossConfig = field(default_factory=LabelLossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: TeachConfig | None = None
    self_distill: SelfTeachConfig | None = None
    name: str = "run"

    def as_dict(self) -> dict[str, Any]:
        """The experiment as plain values, ready for YAML, JSON and checkpoints."""
        return asdict(self)


AnyExperiment = Experiment | ClassifierExperiment
