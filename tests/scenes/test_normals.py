"""Surface normals of rendered depth against those of a sphere above a plane."""

import numpy as np

from densevit_scenes.normals import surface_normals
from densevit_scenes.scene import Camera
from densevit_scenes.shapes import AXES, Ball, Rays
from densevit_scenes.surfaces import View

SIDE, CENTRE = 128, (0.2, -0.3, 4.0)  # of a ball of radius 1, in the camera's frame


def test_normals_are_those_of_a_ball_above_the_ground_and_unknown_at_edges():
    camera = Camera(focal=1.0, height=1.5, pitch=0.3)
    view = View(camera, SIDE, SIDE)
    right, down, ahead = AXES
    with np.errstate(invalid="ignore"):
        rays = Rays((-CENTRE[0], -CENTRE[1], -CENTRE[2]), right, down, ahead, view.columns, view.rows)
        ball = Ball(1.0).trace(rays).depth
    ground = np.where(view.floor_depth < 40, view.floor_depth, 0)[:, None].repeat(SIDE, 1)
    shown = ball > 0
    depth = np.where(shown, ball, ground)
    points = depth * np.stack(np.broadcast_arrays(view.columns, view.rows[:, None], 1.0))
    up = np.array([axis[1] for axis in camera.axes])[:, None, None]
    expected = np.where(shown, points - np.array(CENTRE)[:, None, None], up)
    normals = surface_normals(camera, depth.astype(np.float32))
    known = (normals != 0).any(0)
    angles = np.degrees(np.arccos(np.clip((normals * expected).sum(0), -1, 1)))
    assert angles[known].max() < 1
    beside = np.zeros_like(shown)  # a neighbour is of another surface, unknown or outside
    kind = np.pad(np.where(shown, 2, depth > 0), 1, constant_values=-1)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        beside |= kind[dy : dy + SIDE, dx : dx + SIDE] != kind[1:-1, 1:-1]
    assert not known[beside | (depth == 0)].any()
    assert known[shown & ~beside].mean() > 0.8 and known[~shown & ~beside & (depth > 0)].mean() > 0.95
