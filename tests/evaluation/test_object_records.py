"""Objects of images are concatenated, by hand."""

import numpy as np

from densevit.evaluation.object_records import ImageRecord, ObjectRecords, joined


def test_images_of_batches_are_joined_in_any_order():
    """Of two images with detections 0 and 1, and 2, and the objects 0, and 1 and 2."""
    scores, labels = np.array([0.5, 0.25, 0.75], np.float32), np.array([4, 5, 6])
    batch = ObjectRecords([0, 2, 3], [0, 1, 3], scores, labels, labels > 5, np.array([7, 8, 9]), scores, scores > 0.5)
    records = joined([ImageRecord(batch, 1), ImageRecord(batch, 0)], ObjectRecords)
    assert (records.detections, records.truths) == ([0, 1, 3], [0, 2, 3])
    assert records.labels.tolist() == [6, 4, 5] and records.scores.tolist() == [0.75, 0.5, 0.25]
    assert records.unlabelled.tolist() == [True, False, False]
    assert records.truth_labels.tolist() == [8, 9, 7] and records.crowds.tolist() == [False, True, False]
    assert joined([], ObjectRecords).detections == [0]
