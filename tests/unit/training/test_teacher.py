"""The mean teacher in closed form."""

import pytest
import torch

from peft_unlearn.training.teacher import Teacher


def test_teacher_of_a_still_student_closes_the_gap_geometrically():
    student, teacher = [torch.ones(3), torch.full((2, 2), -4.0)], [torch.zeros(3), torch.zeros(2, 2)]
    for _ in range(50):
        Teacher(teacher, decay=0.9).follow(student)
    assert torch.allclose(teacher[0], torch.full((3,), 1 - 0.9**50))
    assert torch.allclose(teacher[1], torch.full((2, 2), -4 * (1 - 0.9**50)))


def test_clipping_slows_the_teacher_by_the_same_share():
    teacher = [torch.zeros(1)]
    Teacher(teacher, decay=0.9).follow([torch.ones(1)], clip=0.25)
    assert teacher[0].item() == pytest.approx(0.025)


def test_damping_is_the_gradient_of_half_the_squared_distance():
    student, teacher = torch.randn(5, requires_grad=True), torch.randn(5)
    distance = 0.5 * 3.0 * (student - teacher).square().sum()
    (expected,) = torch.autograd.grad(distance, student)
    gradient = [torch.zeros(5)]
    Teacher([teacher], decay=0.9).damp(gradient, [student.detach()], damping=3.0)
    assert torch.allclose(gradient[0], expected)
