"""Is the teacher the teacher it was? A look at it before the student begins to believe it."""

from __future__ import annotations

import torch

from detkd.data.dataset import CocoDataset
from detkd.engine.predict import predict
from detkd.errors import UserError
from detkd.evaluation.coco_map import coco_map
from detkd.evaluation.results import check_truth
from detkd.models.detector import detector_from
from detkd.models.weights import read_checkpoint

FAR_BELOW = 0.5  # share of the recorded score under which a teacher is not believed


def check_teacher(path: str, dataset: CocoDataset, images: int, device: torch.device) -> None:
    """Judge the teacher of a checkpoint on some images of `dataset`, as the student gets them.

    The checkpoint says what it reached. The images are spread evenly over the data set.

    Raises:
        UserError: it finds far less than it did, with what that mostly comes from.
    """
    checkpoint = read_checkpoint(path)
    recorded = checkpoint.get("score")
    if not images or not recorded:
        return
    teacher = detector_from(checkpoint, path)
    images = min(images, len(dataset))
    chosen = [at * len(dataset) // images for at in range(images)]
    results = predict(teacher, dataset, device=device, chosen=chosen)
    ids = {dataset.truth["images"][at]["id"] for at in chosen}
    truth = {
        **dataset.truth,
        "images": [image for image in dataset.truth["images"] if image["id"] in ids],
        "annotations": [box for box in dataset.truth["annotations"] if box["image_id"] in ids],
    }
    if not truth["annotations"]:
        return
    found = coco_map(check_truth(truth, dataset.path), results)["coco"]["AP"] or 0.0
    if found < FAR_BELOW * recorded:
        raise UserError(
            f"{path}: the teacher reached a mAP of {recorded:.3f} where it was trained, and has "
            f"{found:.3f} on {len(chosen)} images of {dataset.path}. Are these images of another "
            "kind (microscope, magnification, order of colours), normalised or resized otherwise, "
            f"or are the classes ({', '.join(teacher.classes[:4])}, ...) not what they are called? "
            "Judge it with 'detkd eval'; distill.preflight: 0 trusts it all the same."
        )
