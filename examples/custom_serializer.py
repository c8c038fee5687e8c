"""A serializer of one's own: what another one packs, compressed."""

import zlib
from typing import Any

import anyio

from sitq import MsgpackSerializer, Serializer, SQLiteBackend, TaskQueue, Worker, task


class Compressed(Serializer):
    def __init__(self, inner: MsgpackSerializer) -> None:
        self.inner = inner
        self.sizes: list[tuple[int, int]] = []

    def dumps(self, obj: Any) -> bytes:
        plain = self.inner.dumps(obj)
        packed = zlib.compress(plain)
        self.sizes.append((len(plain), len(packed)))
        return packed

    def loads(self, data: bytes) -> Any:
        unzip = zlib.decompressobj()
        plain = unzip.decompress(data, self.inner.max_bytes)  # a few bytes can hold gigabytes
        if not unzip.eof:
            raise ValueError("cut off, or too large")
        return self.inner.loads(plain)


@task
async def count_words(text: str) -> dict[str, int]:
    words = text.split()
    return {word: words.count(word) for word in sorted(set(words))}


async def main() -> None:
    serializer = Compressed(MsgpackSerializer())
    backend = SQLiteBackend(":memory:")
    async with (
        TaskQueue(backend, serializer=serializer) as queue,
        Worker(backend, serializer=serializer),  # the same as the queue's
    ):
        handle = await queue.enqueue(count_words, "to be or not to be " * 1000)
        print(await handle.result(timeout=5))
    plain, packed = serializer.sizes[0]
    print(f"the arguments took {packed} bytes instead of {plain}")


anyio.run(main)
