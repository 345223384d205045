"""IBM Quantum as a provider of paid jobs (`qgraft.studies.jobs`), through qiskit-ibm-runtime.

Every job carries its tag from the moment it is sent, so it can be found again. Where the name is
that of a snapshot of a real machine, such as `FakeManilaV2`, everything happens here, with the
noise of that machine and for nothing: a rehearsal of what would be paid.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qgraft.devices.device import fake_backend
from qgraft.errors import ConfigError, RunError

PREFIX = "ibm:"
FAKE = "Fake"


class IbmProvider:
    """Sends OpenQASM 3 programs to a backend of IBM Quantum and finds them again by tag.

    Args:
        backend: of `QiskitRuntimeService`, or a snapshot of `fake_backend`.
        service: where jobs are looked up; None for a snapshot, whose jobs end with the process.
    """

    def __init__(self, backend: Any, service: Any | None = None) -> None:
        self.backend, self.service = backend, service
        self._here: dict[str, Any] = {}

    def submit(self, tag: str, program: str, shots: int) -> str:
        """Transpile a program for the backend, send it and return the number of the job."""
        circuit = import_module("qiskit.qasm3").loads(program)
        passes = import_module("qiskit.transpiler").generate_preset_pass_manager(
            optimization_level=3, backend=self.backend, seed_transpiler=0
        )
        sampler = import_module("qiskit_ibm_runtime").SamplerV2(mode=self.backend)
        sampler.options.environment.job_tags = [tag]
        job = sampler.run([passes.run(circuit)], shots=shots)
        if self.service is None:
            self._here[job.job_id()] = job
        return job.job_id()

    def find(self, tag: str) -> str | None:
        """Return the number of the job with this tag, if it was ever sent."""
        found = [] if self.service is None else self.service.jobs(job_tags=[tag], limit=1)
        return found[0].job_id() if found else None

    def fetch(self, job: str) -> dict[str, int]:
        """Wait for a job and return how often each outcome was seen; the bit `c[0]` comes first.

        Raises:
            RunError: the job failed, was cancelled or is not known.
        """
        try:
            known = self._here[job] if self.service is None else self.service.job(job)
            counts = known.result()[0].data.c.get_counts()
        except Exception as error:  # a service fails in its own ways
            raise RunError(
                f"job {job} has no result ({error!r}); to send it again delete its record, which "
                "has this number in it"
            ) from None
        return {bits[::-1]: int(count) for bits, count in counts.items()}


def open_ibm(name: str) -> IbmProvider:
    """Return the provider for a machine of IBM Quantum, or a rehearsal on its snapshot.

    Args:
        name: of a backend, such as `ibm_torino`, or of a snapshot, such as `FakeManilaV2`.

    Raises:
        ConfigError: there is no such backend, no account, or Qiskit is not installed.
    """
    if name.startswith(FAKE):
        return IbmProvider(fake_backend(name))
    try:
        runtime = import_module("qiskit_ibm_runtime")
    except ImportError:
        raise ConfigError("IBM Quantum needs Qiskit: pip install 'qgraft[qpu]'") from None
    try:
        service = runtime.QiskitRuntimeService()
        return IbmProvider(service.backend(name), service)
    except Exception as error:  # no account, no network, no such machine
        raise ConfigError(
            f"IBM Quantum does not give the backend {name!r} ({error}); save an account with "
            "qiskit_ibm_runtime.QiskitRuntimeService.save_account, or rehearse on a snapshot such "
            "as ibm:FakeManilaV2"
        ) from None
