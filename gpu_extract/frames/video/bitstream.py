"""What the packets of a video stream say about decoding from the middle.

A container's keyframe flag is a claim, and some flag pictures from which decoding is not exact (gradual refresh, broken
muxers). For H.264 and HEVC the packets themselves are asked, by the rules of the standards: at which picture may
decoding begin so that it and everything shown after it comes out right, and on which pictures does no other depend.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

# Every packet is one picture, and a flagged one resets all that later ones are predicted from, by the codec's rules.
_FLAGS_CAN_BE_TRUSTED = frozenset(("vp9", "av1", "libdav1d", "mjpeg", "prores", "dnxhd", "ffv1"))

_H264_EXTENDED_PROFILES = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))


class PacketFacts(NamedTuple):
    entry: bool  # decoding can begin here: all pictures shown from this one on come out exactly
    droppable: bool  # no other picture is predicted from this one
    all_parameters: bool = False  # carries one of every kind of parameter set
    parameters: bool = False  # carries a parameter set
    layered: bool = False  # in a temporal layer above the lowest, whose pictures may depend on any below


class DoubtError(Exception):
    """The stream has something that makes skipping unsafe; the text says what."""


PacketReader = Callable[[memoryview, bool], PacketFacts]


def packet_reader(codec: str, extradata: bytes | None) -> PacketReader:
    """A function (packet bytes, keyframe flag) -> PacketFacts; raises DoubtError for codecs not known here."""
    if codec == "h264":
        return _h264_reader(extradata or b"")
    if codec == "hevc":
        return _hevc_reader(extradata or b"")
    if codec in _FLAGS_CAN_BE_TRUSTED:
        return lambda data, keyframe: PacketFacts(keyframe, False)
    raise DoubtError(f"pictures of the codec {codec} are not looked into")


def sequences(codec: str, extradata: bytes, packets: Iterable[memoryview]) -> set[bytes]:
    """What holds for sequences of a stream's pictures, each once: parameter sets of HEVC, headers of AV1.

    Raises DoubtError for what cannot be taken apart, and for another codec.
    """
    if codec == "hevc":
        length_size = _hevc_length_size(extradata)
        found = set(_hvcc_sequences(extradata) if length_size else _hevc_sequences(memoryview(extradata), 0))
        for data in packets:
            found.update(_hevc_sequences(data, length_size))
        return found
    if codec == "av1":
        found = set()
        for data in packets:
            headers = [*_av1_sequences(data)]
            if not (found or headers):  # encoders put another one there than they begin with
                headers = [*_av1_sequences(memoryview(extradata)[4:])]
            found.update(headers)
        return found
    raise DoubtError(f"sequences of the codec {codec} are not looked into")


def _h264_reader(extradata: bytes) -> PacketReader:
    length_size = 0
    if extradata[:1] == b"\x01":
        length_size = (extradata[4] & 3) + 1
        for parameters in _avcc_sequences(extradata):
            _check_h264_sequence(parameters)

    def read(data: memoryview, keyframe: bool) -> PacketFacts:
        exact = False
        reference = 0
        pictures = 0
        parameters = set()
        for start, end in _units(data, length_size):
            kind = data[start] & 0x1F
            if kind in (1, 5):
                pictures += 1
                reference |= data[start] & 0x60
                exact |= kind == 5
            elif kind == 6 and keyframe and not exact:
                exact = _is_exact_recovery_point(bytes(data[start + 1 : end]))
            elif kind == 7:
                parameters.add(kind)
                _check_h264_sequence(bytes(data[start:end]))
            elif kind == 8:
                parameters.add(kind)
            elif kind in (2, 3, 4):
                raise DoubtError("pictures are split into data partitions")
        if not pictures:
            raise DoubtError("a packet holds no picture")
        return PacketFacts(exact and keyframe, not reference, len(parameters) == 2, bool(parameters))

    return read


def _hevc_reader(extradata: bytes) -> PacketReader:
    length_size = _hevc_length_size(extradata)

    def read(data: memoryview, keyframe: bool) -> PacketFacts:
        entry = layered = False
        droppable = True
        pictures = 0
        parameters = set()
        for start, end in _units(data, length_size):
            if end - start < 2:
                raise DoubtError("a unit is too short")
            kind = data[start] >> 1 & 0x3F
            layer = (data[start] & 1) << 5 | data[start + 1] >> 3
            if layer:
                continue
            if kind < 32:
                pictures += 1
                entry |= 16 <= kind <= 21
                # Even kinds below 15 are referenced by none of their own temporal layer.
                droppable = droppable and kind < 15 and kind % 2 == 0
                layered |= data[start + 1] & 7 != 1
            elif kind in (32, 33, 34):
                parameters.add(kind)
        if not pictures:
            raise DoubtError("a packet holds no picture")
        return PacketFacts(entry and keyframe, droppable, len(parameters) == 3, bool(parameters), layered)

    return read


def _hevc_length_size(extradata: bytes) -> int:
    """Of the lengths before units; 0 where they begin with start codes."""
    return (extradata[21] & 3) + 1 if len(extradata) > 22 and extradata[:3] != b"\0\0\1" and extradata[0] else 0


def _hvcc_sequences(extradata: bytes) -> Iterator[bytes]:
    position = 23
    try:
        for _ in range(extradata[22]):
            kind, count = struct.unpack_from(">BH", extradata, position)
            position += 3
            for _ in range(count):
                (length,) = struct.unpack_from(">H", extradata, position)
                unit = extradata[position + 2 : position + 2 + length]
                position += 2 + length
                if kind & 0x3F == 33:
                    yield unit
    except struct.error as error:
        raise DoubtError("its parameter sets end early") from error


def _hevc_sequences(data: memoryview, length_size: int) -> Iterator[bytes]:
    """Of the lowest layer, the only one that is decoded."""
    for start, end in _units(data, length_size) if len(data) else ():
        is_sequence = data[start] >> 1 & 0x3F == 33
        if is_sequence and end - start > 2 and not (data[start] & 1 or data[start + 1] >> 3):
            yield bytes(data[start:end]).rstrip(b"\0")  # zeros before a start code belong to no unit


def _av1_sequences(data: memoryview) -> Iterator[bytes]:
    position, size = 0, len(data)
    while position < size:
        header = data[position]
        start = position + 1 + (header >> 2 & 1)
        length, start = _leb128(data, start) if header & 2 else (size - start, start)
        position = start + length
        if header & 0x80 or not start <= position <= size:
            raise DoubtError("a packet's units do not fill it")
        if header >> 3 & 15 == 1:
            yield bytes(data[start:position])


def _leb128(data: memoryview, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends; raises DoubtError if it does not."""
    number = 0
    for i, byte in enumerate(data[position : position + 8]):
        number |= (byte & 0x7F) << 7 * i
        if not byte & 0x80:
            return number, position + i + 1
    raise DoubtError("a unit's length does not end")


def _units(data: memoryview, length_size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each NAL unit, after its length or start code; raises DoubtError unless they fill the packet."""
    size = len(data)
    if length_size:
        position = 0
        while position < size:
            start = position + length_size
            position = start + int.from_bytes(data[position:start], "big")
            if position > size or position == start:
                raise DoubtError("a packet's units do not fill it")
            if data[start] & 0x80:
                raise DoubtError("a unit's first bit is set")
            yield start, position
        return
    raw = bytes(data)
    start = raw.find(b"\0\0\1") + 3
    if start < 3 or raw[: start - 3].strip(b"\0"):
        raise DoubtError("a packet does not begin with a start code")
    while start < size:
        following = raw.find(b"\0\0\1", start)
        end = size if following < 0 else following
        if raw[start] & 0x80:
            raise DoubtError("a unit's first bit is set")
        yield start, end
        start = size if following < 0 else following + 3


def _avcc_sequences(extradata: bytes) -> Iterator[bytes]:
    position = 6
    for _ in range(extradata[5] & 0x1F):
        (length,) = struct.unpack_from(">H", extradata, position)
        yield extradata[position + 2 : position + 2 + length]
        position += 2 + length


class _Bits:
    """Reads a NAL unit's payload bit by bit, emulation prevention removed. Raises DoubtError at its end."""

    def __init__(self, payload: bytes) -> None:
        clean = payload.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(clean, "big")
        self._left = len(clean) * 8

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise DoubtError("a parameter set ends early")
        return self._value >> self._left & ((1 << count) - 1)

    def unsigned(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _is_exact_recovery_point(payload: bytes) -> bool:
    """Whether an SEI unit says: from this picture on, everything shown is exactly right."""
    payload = payload.replace(b"\0\0\3", b"\0\0")
    position = 0
    while position + 2 <= len(payload) and payload[position] != 0x80:
        numbers = []
        for _ in range(2):
            number = 0
            while position < len(payload) and payload[position] == 0xFF:
                number += 255
                position += 1
            if position >= len(payload):
                return False
            numbers.append(number + payload[position])
            position += 1
        kind, length = numbers
        if kind == 6:
            bits = _Bits(payload[position : position + length])
            frames_until, exact = bits.unsigned(), bits.take(1)
            return frames_until == 0 and exact == 1
        position += length
    return False


def _check_h264_sequence(unit: bytes) -> None:
    """Raises DoubtError unless a packet is a whole frame and the stream says how far its frames are reordered.

    Where it does not say, FFmpeg learns it while it decodes, and may drop a frame on the way.
    """
    bits = _Bits(unit[1:])
    profile = bits.take(8)
    bits.take(16)
    bits.unsigned()
    if profile in _H264_EXTENDED_PROFILES:
        if bits.unsigned() == 3:
            bits.take(1)
        bits.unsigned()
        bits.unsigned()
        bits.take(1)
        if bits.take(1):
            raise DoubtError("the stream has scaling lists")
    bits.unsigned()
    order_type = bits.unsigned()
    if order_type == 0:
        bits.unsigned()
    elif order_type == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()
    bits.unsigned()
    if bits.take(1):
        raise DoubtError("frame numbers may have gaps")
    bits.unsigned()
    bits.unsigned()
    if not bits.take(1):
        raise DoubtError("the stream may be interlaced")
    bits.take(1)
    if bits.take(1):
        for _ in range(4):
            bits.unsigned()
    reordered = order_type != 2 and profile != 66
    if reordered and not (bits.take(1) and _has_reorder_limit(bits)):
        raise DoubtError("the stream does not say how far it reorders frames")


def _has_reorder_limit(bits: _Bits) -> bool:
    """Walks the VUI to its last flag, bitstream_restriction_flag."""
    if bits.take(1) and bits.take(8) == 255:
        bits.take(32)
    if bits.take(1):
        bits.take(1)
    if bits.take(1):
        bits.take(4)
        if bits.take(1):
            bits.take(24)
    if bits.take(1):
        bits.unsigned()
        bits.unsigned()
    if bits.take(1):
        bits.take(65)
    timed = 0
    for _ in range(2):
        if bits.take(1):
            timed = 1
            count = bits.unsigned() + 1
            bits.take(8)
            for _ in range(count):
                bits.unsigned()
                bits.unsigned()
                bits.take(1)
            bits.take(20)
    bits.take(timed)
    bits.take(1)
    return bool(bits.take(1))
