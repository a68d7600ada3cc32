"""Metrics for Prometheus. Names are those of vLLM with another prefix: its dashboards need only this change."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from ..infer.writer import Step
    from .stream import Stream

SHORT = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
LONG = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)
SIZES = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)

GAUGES = {
    "num_requests_running": "Texts that have a row.",
    "num_requests_waiting": "Texts and computations that wait for their turn.",
    "mean_patch_bytes": "Bytes generated per patch generated, since the start.",
}
COUNTERS = {
    "prompt_tokens": "Bytes of prompts that were read.",
    "generation_tokens": "Bytes that were generated.",
    "patches_generated": "Patches that begin with a byte that was generated.",
    "latent_calls": "Passes of the latent transformer, counted once for each text that takes part.",
    "drafted_bytes": "Bytes guessed by self-speculation.",
    "accepted_bytes": "Those of them that were true.",
    "requests_refused": "Requests for which there was no room.",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": ("From arrival to the first byte.", LONG),
    "inter_token_latency_seconds": ("Between two bytes of a text.", SHORT),
    "request_time_per_output_token_seconds": ("Mean time per byte after the first, a value a text.", SHORT),
    "e2e_request_latency_seconds": ("From arrival to the last byte.", LONG),
    "request_queue_time_seconds": ("From arrival to a row.", LONG),
    "request_prefill_time_seconds": ("From a row to the first byte.", LONG),
    "request_decode_time_seconds": ("From the first byte to the last.", LONG),
    "request_prompt_tokens": ("Bytes of a prompt.", SIZES),
    "request_generation_tokens": ("Bytes of a generated text.", SIZES),
    "iteration_tokens_total": ("Texts that took a step together.", TEXTS),
}


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        options = {"labelnames": ["model_name"], "registry": self.registry}
        self.gauges = {name: Gauge(f"bytequilt:{name}", text, **options) for name, text in GAUGES.items()}
        self.counters = {name: Counter(f"bytequilt:{name}", text, **options) for name, text in COUNTERS.items()}
        self.histograms = {
            name: Histogram(f"bytequilt:{name}", text, buckets=buckets, **options)
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        options["labelnames"] = ["model_name", "finished_reason"]
        self.finished = Counter("bytequilt:request_success", "Texts that came to an end, by how they did.", **options)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


class Meters:
    """The metrics of one model. Its counters may be changed from any thread."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._gauges = {name: gauge.labels(model) for name, gauge in metrics.gauges.items()}
        self._counters = {name: counter.labels(model) for name, counter in metrics.counters.items()}
        self._histograms = {name: histogram.labels(model) for name, histogram in metrics.histograms.items()}
        self._finished, self._model = metrics.finished, model
        self._bytes = self._patches = 0
        self._load: tuple[int, int] | None = None
        self.refused = self._counters["requests_refused"]

    def load(self, running: int, waiting: int) -> None:
        """Set the number of running texts and the number of waiting texts and computations."""
        if (running, waiting) != self._load:
            self._gauges["num_requests_running"].set(running)
            self._gauges["num_requests_waiting"].set(waiting)
            self._load = running, waiting

    def stepped(self, paces: list[tuple[float, int]]) -> None:
        """Record steps: (seconds, number of texts that got a byte) of each step."""
        for seconds, texts in paces:
            if texts:
                self._histograms["iteration_tokens_total"].observe(texts)
                self._histograms["inter_token_latency_seconds"].observe(seconds)

    def ended(self, stream: "Stream", step: "Step", now: float) -> None:
        """Record a text that has ended by itself, with its last step, at time `now`."""
        self._finished.labels(self._model, step.finish_reason).inc()
        drawn = step.stats.bytes if step.stats is not None else stream.given
        seconds = {
            "time_to_first_token_seconds": stream.first - stream.arrived,
            "e2e_request_latency_seconds": now - stream.arrived,
            "request_queue_time_seconds": stream.started - stream.arrived,
            "request_prefill_time_seconds": stream.first - stream.started,
            "request_decode_time_seconds": now - stream.first,
            "request_prompt_tokens": len(stream.prompt),
            "request_generation_tokens": drawn,
        }
        if drawn > 1:
            seconds["request_time_per_output_token_seconds"] = (now - stream.first) / (drawn - 1)
        for name, value in seconds.items():
            self._histograms[name].observe(value)
        self._counters["prompt_tokens"].inc(len(stream.prompt))
        self._counters["generation_tokens"].inc(drawn)
        if (stats := step.stats) is not None:
            self._counters["patches_generated"].inc(stats.patches)
            self._counters["latent_calls"].inc(stats.latent_calls)
            self._counters["drafted_bytes"].inc(stats.drafted)
            self._counters["accepted_bytes"].inc(stats.accepted)
            self._bytes, self._patches = self._bytes + stats.bytes, self._patches + stats.patches
            self._gauges["mean_patch_bytes"].set(self._bytes / max(self._patches, 1))

    def dropped(self, reason: str | None) -> None:
        """Record a text that was ended from outside, such as after a disconnect."""
        self._finished.labels(self._model, reason or "abort").inc()
