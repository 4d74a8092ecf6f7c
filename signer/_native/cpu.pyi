from typing import TypedDict

class Features(TypedDict):
    backend: str
    available: list[str]
    bmi2: bool
    adx: bool
    avx2: bool
    avx512f: bool
    avx512dq: bool
    avx512bw: bool
    avx512vl: bool
    avx512ifma: bool

def backend() -> str: ...
def backends() -> list[str]: ...
def features() -> Features: ...
