"""What no gradient moves: against the loops, across a checkpoint, and through a step that uses it."""

import copy

import pytest
import torch
from torch import nn

from training.memory import Centre, Queue, Teacher
from training.objectives import info_nce


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_a_teacher_is_born_equal_and_never_learns():
    net = student()
    teacher = Teacher(net)
    for name, value in net.state_dict().items():
        assert torch.equal(teacher.module.state_dict()[name], value), name
    assert not any(part.requires_grad for part in teacher.parameters())
    assert all(part.requires_grad for part in net.parameters())


def test_every_parameter_follows_and_no_buffer_does():
    net = student()
    teacher = Teacher(net)
    before = copy.deepcopy(teacher.module.state_dict())
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(1)
    teacher.follow(net, 0.996)
    after, buffers = teacher.module.state_dict(), dict(net.named_buffers())
    assert len(buffers) == 3
    for name, value in net.state_dict().items():
        if name in buffers:
            assert torch.equal(after[name], before[name]), name
        else:
            torch.testing.assert_close(after[name], 0.996 * before[name] + 0.004 * value, msg=name)
            assert not torch.equal(after[name], before[name]), name


def test_a_teacher_that_holds_still_at_momentum_one_does_not_move_a_bit():
    net, teacher = student(), Teacher(student())
    before = copy.deepcopy(teacher.module.state_dict())
    with torch.no_grad():
        for part in net.parameters():
            part.mul_(1.7)
    teacher.follow(net, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in teacher.module.state_dict().items())


def test_an_evaluating_teacher_keeps_its_mode_and_another_takes_the_methods():
    method = nn.ModuleDict({"still": Teacher(student(), evaluating=True), "plain": Teacher(student())})
    method.train()
    assert not method["still"].module.training
    assert method["plain"].module.training
    method.eval()
    assert not method["plain"].module.training


def test_a_teacher_follows_only_what_it_was_copied_from():
    with pytest.raises(ValueError, match="not shaped as the student's"):
        Teacher(student()).follow(nn.Linear(3, 4), 0.9)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (3, 3, 3, 3), (10, 2), (25, 1)])
def test_a_queue_is_the_loop_in_its_docstring(sizes):
    torch.manual_seed(1)
    queue = Queue(10, 3)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(10))
    held, pointer = [list(row) for row in queue.rows.tolist()], 0
    for size in sizes:
        keys = torch.randn(size, 3)
        queue.push(keys)
        for key in keys.tolist():
            held[pointer] = key
            pointer = (pointer + 1) % 10
        assert int(queue.pointer) == pointer
        torch.testing.assert_close(queue.rows, torch.tensor(held))


def test_a_backward_pass_may_come_after_the_push():
    queue, keys = Queue(6, 3), torch.randn(2, 3)
    queries = torch.randn(2, 3, requires_grad=True)
    loss = info_nce(queries, keys, queue.rows, 0.2)
    expected = torch.autograd.grad(loss, queries, retain_graph=True)[0]
    queue.push(keys)
    loss.backward()
    assert torch.equal(queries.grad, expected)


def test_memories_survive_a_checkpoint():
    held = nn.ModuleDict({"queue": Queue(6, 3), "centre": Centre(4)})
    held["queue"].push(torch.randn(4, 3))
    held["centre"].absorb(torch.randn(5, 4))
    held["centre"].settle()
    other = nn.ModuleDict({"queue": Queue(6, 3), "centre": Centre(4)})
    other.load_state_dict(held.state_dict())
    keys = torch.randn(3, 3)
    for memory in (held, other):
        memory["queue"].push(keys)
    assert torch.equal(other["queue"].rows, held["queue"].rows)
    assert int(other["queue"].pointer) == 1
    assert torch.equal(other["centre"].value, held["centre"].value)


def test_a_queue_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        Queue(0, 3)


def test_a_centre_is_the_loop_in_its_docstring_and_new_only_after_settling():
    centre, value = Centre(3, momentum=0.8), torch.zeros(3)
    generator = torch.Generator().manual_seed(0)
    for sizes in ((4,), (2, 5), (1, 1, 1)):
        noted = [torch.randn(size, 3, generator=generator) for size in sizes]
        for outputs in noted:
            centre.absorb(outputs)
            assert torch.equal(centre.value, value)
        centre.settle()
        rows = [row for outputs in noted for row in outputs]
        value = 0.8 * value + 0.2 * sum(rows) / len(rows)
        torch.testing.assert_close(centre.value, value)
        value = centre.value.clone()
    centre.settle()
    assert torch.equal(centre.value, value)


def test_the_mean_output_of_many_features_may_stand_for_theirs():
    plain, short = Centre(3), Centre(3)
    weight, first, second = torch.randn(3, 4), torch.randn(6, 4), torch.randn(2, 4)
    for features in (first, second):
        plain.absorb(features @ weight.T)
        short.absorb(features.mean(0, keepdim=True) @ weight.T, len(features))
    plain.settle()
    short.settle()
    torch.testing.assert_close(short.value, plain.value)


def test_evaluation_notes_nothing():
    centre = Centre(3).eval()
    centre.absorb(torch.ones(2, 3))
    centre.train().settle()
    assert not centre.value.any()
