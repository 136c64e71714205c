from millstream.store.arrays import Ints
from millstream.store.prompt_blocks import Hashes

def once(hashes: Hashes, length: Ints, first: Ints, /) -> bytes: ...
