"""The structs of the .inl files, field by field."""

from ctypes import POINTER, Structure, c_long, c_void_p
from enum import IntEnum
from typing import ClassVar


class Kind(IntEnum):
    """What a compiled step does."""

    POINTWISE = 0
    CONV = 1
    DEPTHWISE = 2
    EXPAND_DEPTHWISE = 3
    SCALE = 4
    AVERAGE = 5
    POOL_MAX = 6
    POOL_MEAN = 7
    COMBINE = 8


class Product(Structure):
    _fields_: ClassVar = [
        ("weight", c_void_p),
        ("panel_stride", c_long),
        ("tap_stride", c_long),
        ("taps", c_long),
        ("depth", c_long),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("outputs", c_long),
        ("act", c_long),
    ]


class Filters(Structure):
    _fields_: ClassVar = [
        ("taps", c_void_p),
        ("tap_stride", c_long),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("kernel", c_long),
        ("stride", c_long),
        ("act", c_long),
    ]


class Window(Structure):
    _fields_: ClassVar = [
        ("in_h", c_long),
        ("in_w", c_long),
        ("out_h", c_long),
        ("out_w", c_long),
        ("kernel", c_long),
        ("stride", c_long),
        ("padding", c_long),
    ]


class Step(Structure):
    _fields_: ClassVar = [
        ("kind", c_long),
        ("x", c_long),
        ("y", c_long),
        ("out", c_long),
        ("pooled", c_long),
        ("channels", c_long),
        ("product", Product),
        ("filters", Filters),
        ("window", Window),
    ]


class Segment(Structure):
    _fields_: ClassVar = [("begin", c_long), ("end", c_long), ("together", c_long)]


class Plan(Structure):
    _fields_: ClassVar = [
        ("steps", POINTER(Step)),
        ("segments", POINTER(Segment)),
        ("offsets", POINTER(c_long)),
        ("sizes", POINTER(c_long)),
        ("whole", POINTER(c_long)),
        ("segment_count", c_long),
        ("value_count", c_long),
    ]
