"""The loop of one session without the interpreter, and the work that it takes: see csrc/sdf_lane.h.

Owns the buffers that a device writes to. They live as long as their Lane, and a thread whose call never returns keeps
its Lane; so a late call writes nowhere else. Knows addresses and bytes; not devices, passwords or what a code means.
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "sdf_lane.h" nogil:
    enum: SDF_DIGEST_SIZE
    enum: SDF_RAW_SIZE
    ctypedef int (*sdf_sign_fn)(void *, unsigned int, unsigned char *, unsigned int, void *)
    ctypedef struct sdf_gate:
        pass
    ctypedef enum sdf_outcome:
        SDF_IDLE
        SDF_CALLED
        SDF_RETIRED
        SDF_CLAIMED
        SDF_FAILED
        SDF_ENCODING
        SDF_VERIFY
    ctypedef struct sdf_run:
        const uint8_t *digests
        uint8_t *out
        uint32_t *todo
        size_t waiting
        size_t left
        int over
        unsigned int index
    ctypedef struct sdf_lane:
        void *session
        sdf_sign_fn sign
        sdf_gate *alone
        uint32_t position
        int code
        int flight
        int retired
        int called
        int64_t since_ns
        uint64_t signatures
        uint64_t call_ns
        uint8_t raw[64]
    int sdf_run_init(sdf_run *) noexcept
    void sdf_run_destroy(sdf_run *) noexcept
    int sdf_run_take(sdf_run *, uint32_t *) noexcept
    void sdf_run_give_back(sdf_run *, uint32_t) noexcept
    void sdf_run_put(sdf_run *, uint32_t, const uint8_t *) noexcept
    int sdf_run_give_up(sdf_run *) noexcept
    int sdf_run_wait(sdf_run *, int64_t) noexcept
    int sdf_gate_init(sdf_gate *) noexcept
    void sdf_gate_destroy(sdf_gate *) noexcept
    void sdf_gate_enter(sdf_gate *) noexcept
    void sdf_gate_leave(sdf_gate *) noexcept
    int sdf_lane_init(sdf_lane *) noexcept
    void sdf_lane_destroy(sdf_lane *) noexcept
    sdf_outcome sdf_lane_ask(sdf_lane *, unsigned int, const uint8_t *) noexcept
    sdf_outcome sdf_lane_work(sdf_lane *, sdf_run **, int, unsigned int) noexcept
    int sdf_lane_take_off(sdf_lane *, int, uint32_t) noexcept
    int sdf_lane_land(sdf_lane *) noexcept
    int sdf_lane_claim(sdf_lane *, int *, uint32_t *) noexcept
    void sdf_lane_retire(sdf_lane *) noexcept
    int64_t sdf_now_ns() noexcept

IDLE = <int>SDF_IDLE
CALLED = <int>SDF_CALLED
RETIRED = <int>SDF_RETIRED
CLAIMED = <int>SDF_CLAIMED
FAILED = <int>SDF_FAILED
ENCODING = <int>SDF_ENCODING
VERIFY = <int>SDF_VERIFY


cdef class Gate:
    """A lock that C and Python take: around each call into a library that may be entered by one thread at a time.

    Had in the order of asking.
    """

    cdef sdf_gate gate
    cdef bint made

    def __cinit__(self):
        if not sdf_gate_init(&self.gate):
            raise MemoryError
        self.made = True

    def __dealloc__(self):
        if self.made:
            sdf_gate_destroy(&self.gate)

    def __enter__(self):
        with nogil:
            sdf_gate_enter(&self.gate)
        return self

    def __exit__(self, *_):
        sdf_gate_leave(&self.gate)


cdef class Run:
    """Positions of a batch to be signed under one key; results go to `out`, which the batch's runs share.

    Any number of lanes may work on it: each takes one position at a time, and gives it back where the device failed.
    `error` says why it was given up. All is safe from any thread.
    """

    cdef sdf_run run
    cdef bint made
    cdef readonly object key
    cdef readonly bytes digests
    cdef bytearray out
    cdef public object error

    def __cinit__(self, key, bytes digests not None, bytearray out not None, positions):
        cdef Py_ssize_t count, n, bound = len(digests) // SDF_DIGEST_SIZE
        places = list(positions)
        count = len(places)
        if not count or len(out) < bound * SDF_RAW_SIZE or min(places) < 0 or max(places) >= bound:
            raise ValueError("positions are of digests, and each has room for its signature")
        if not sdf_run_init(&self.run):
            raise MemoryError
        self.made = True
        self.run.todo = <uint32_t *>PyMem_RawCalloc(count, sizeof(uint32_t))
        if self.run.todo == NULL:
            raise MemoryError
        for n in range(count):
            self.run.todo[count - 1 - n] = places[n]
        self.run.waiting = self.run.left = count
        self.run.index = key.index
        self.key, self.digests, self.out = key, digests, out
        self.run.digests = <const uint8_t *><char *>digests
        self.run.out = <uint8_t *><char *>out

    def __dealloc__(self):
        if self.made:
            sdf_run_destroy(&self.run)
        PyMem_RawFree(self.run.todo)

    @property
    def waiting(self):
        """Positions that nobody works on; 0 once it is over."""
        return 0 if self.run.over else self.run.waiting

    @property
    def over(self):
        """Whether every signature is there, or it was given up."""
        return self.run.over != 0

    def take(self):
        """A position that nobody works on, or None where there is none."""
        cdef uint32_t position
        return position if sdf_run_take(&self.run, &position) else None

    def give_back(self, uint32_t position, fault=None):
        """The position was not signed; it is for whoever comes next."""
        sdf_run_give_back(&self.run, position)

    def put(self, uint32_t position, bytes signature not None):
        """Takes the result of a position. Each position has one: who lands a flight puts, or gives back."""
        if len(signature) != SDF_RAW_SIZE or <Py_ssize_t>position >= len(self.digests) // SDF_DIGEST_SIZE:
            raise ValueError("64 bytes for a position of the batch")
        sdf_run_put(&self.run, position, <const uint8_t *><char *>signature)

    def digest(self, uint32_t position):
        """The 32 bytes of a position."""
        return self.digests[SDF_DIGEST_SIZE * position : SDF_DIGEST_SIZE * (position + 1)]

    def fail(self, error):
        """Ends the run; what is under way comes to nothing."""
        if self.error is None and not self.run.over:
            self.error = error
            if not sdf_run_give_up(&self.run):
                self.error = None  # the last signature came in this moment

    def wait(self, double seconds):
        """Returns whether it is over, after at most so long."""
        cdef int64_t until = sdf_now_ns() + <int64_t>(max(0.0, seconds) * 1e9)
        cdef int over
        with nogil:
            over = sdf_run_wait(&self.run, until)
        return over != 0


cdef class Lane:
    """A session's call: at most one is out, and it is either landed by the thread that made it, or claimed.

    `attach` comes first. `since`: when the call that is out began (time.monotonic()), or None.
    """

    cdef sdf_lane lane
    cdef bint made
    cdef object gate
    cdef object jobs

    def __cinit__(self):
        if not sdf_lane_init(&self.lane):
            raise MemoryError
        self.made = True
        self.jobs = ()

    def __dealloc__(self):
        if self.made:
            sdf_lane_destroy(&self.lane)

    def attach(self, size_t session, size_t sign, Gate gate=None):
        """The session's handle, the address of SDF_InternalSign_ECC, and the gate of a library that needs one."""
        self.lane.session = <void *>session
        self.lane.sign = <sdf_sign_fn><void *>sign
        self.gate = gate
        self.lane.alone = NULL if gate is None else &gate.gate

    @property
    def since(self):
        cdef int64_t began = self.lane.since_ns
        return began / 1e9 if began else None

    def begin(self):
        """A call that the caller makes himself goes out."""
        self.lane.since_ns = sdf_now_ns()

    def end(self):
        """It is back."""
        self.lane.since_ns = 0

    @property
    def signatures(self):
        """How many were put."""
        return self.lane.signatures

    @property
    def call_seconds(self):
        """Time in calls that signed."""
        return self.lane.call_ns / 1e9

    @property
    def code(self):
        """What the device answered when it FAILED, unsigned."""
        return <unsigned int>self.lane.code

    @property
    def raw(self):
        """r and s of the last signature, 64 bytes."""
        return bytes(self.lane.raw[:SDF_RAW_SIZE])

    @property
    def retired(self):
        return self.lane.retired != 0

    def call(self):
        """`work` returns CALLED after the signature that is being made."""
        self.lane.called = 1

    def heard(self):
        """The thread looks what it was called for."""
        self.lane.called = 0

    def ask(self, unsigned int index, bytes digest not None):
        """Has one digest of 32 bytes signed: IDLE with the result in `raw`, FAILED or ENCODING."""
        cdef sdf_outcome outcome
        cdef uint8_t held[32]
        if len(digest) != SDF_DIGEST_SIZE:
            raise ValueError("a digest has 32 bytes")
        memcpy(held, <const char *>digest, SDF_DIGEST_SIZE)
        with nogil:
            outcome = sdf_lane_ask(&self.lane, index, held)
        return <int>outcome

    def work(self, list runs not None, unsigned int verify_one_in):
        """Signs for the runs by turns: why it stopped. The access rights for all of them are there."""
        cdef int n = len(runs), i
        cdef sdf_outcome outcome
        cdef sdf_run **pointers
        if n == 0 or verify_one_in == 0:
            raise ValueError("no runs")
        self.jobs = tuple(runs)
        pointers = <sdf_run **>PyMem_RawCalloc(n, sizeof(sdf_run *))
        if pointers == NULL:
            raise MemoryError
        try:
            for i in range(n):
                pointers[i] = &(<Run?>runs[i]).run
            with nogil:
                outcome = sdf_lane_work(&self.lane, pointers, n, verify_one_in)
        finally:
            PyMem_RawFree(pointers)
        return <int>outcome

    @property
    def flight(self):
        """The job and the position of the call that is out, for the thread that made it. It has to be out."""
        return self.jobs[self.lane.flight], self.lane.position

    def take_off(self, job, uint32_t position):
        """Takes the flight of a job out; False where the lane was retired."""
        self.jobs = (job,)
        return sdf_lane_take_off(&self.lane, 0, position) != 0

    def land(self):
        """False where the flight was claimed: then its job is somebody else's."""
        return sdf_lane_land(&self.lane) != 0

    def count(self):
        """One more signature was put, outside of `work`."""
        self.lane.signatures += 1

    def claim(self):
        """The job and position of the call that is out, which are the caller's now; None where none is out."""
        cdef int run
        cdef uint32_t position
        if not sdf_lane_claim(&self.lane, &run, &position):
            return None
        return self.jobs[run], position

    def retire(self):
        """No flight takes off from now on. One that is out may still land."""
        sdf_lane_retire(&self.lane)
        self.lane.called = 1

    def forget(self):
        """Lets go of the jobs; none is out."""
        self.jobs = ()
