"""All tensors lie in one buffer, aligned, in the order given."""

import torch

from kernels.arena import ALIGNMENT, Arena


def test_values_survive_and_keep_their_order():
    tensors = {"b": torch.randn(3, 5), "a": torch.randn(17), "c": torch.randn(2, 2, 2)}
    arena = Arena(tensors)
    offsets = [slot.offset for slot in arena.slots.values()]

    assert list(arena.slots) == ["b", "a", "c"]
    assert offsets == sorted(offsets)
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    for name, tensor in tensors.items():
        assert torch.equal(arena[name], tensor)


def test_views_share_the_buffer():
    arena = Arena({"a": torch.zeros(4), "b": torch.zeros(4, 6)})
    arena["b"][1:3, :2].fill_(7.0)

    assert arena["b"].sum() == 28
    assert arena.holds([arena["a"], arena["b"][1:, :3]])
    assert not arena.holds([arena["a"].clone()])


def test_memory_of_another_arena_is_not_held():
    arena, other = Arena({"a": torch.zeros(16)}), Arena({"a": torch.zeros(16)})

    assert arena.holds([arena["a"], torch.zeros(0)])
    assert not arena.holds([arena["a"], other["a"][:1]])


def test_conversion_rounds_once():
    source = torch.randn(100, dtype=torch.float64)

    assert torch.equal(Arena({"a": source}, dtype=torch.float16)["a"], source.half())


def test_what_is_hot_is_a_prefix():
    tensors = {"a": torch.ones(17), "b": torch.ones(3), "c": torch.ones(100)}

    assert Arena(tensors).hot_bytes == Arena(tensors).nbytes
    assert Arena(tensors, hot=2).hot_bytes == 3 * ALIGNMENT  # 68 bytes and 12, each aligned
    assert Arena(tensors, hot=0).hot_bytes == 0
