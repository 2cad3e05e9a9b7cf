package smartbatch.frontend.account;

import io.prometheus.client.Collector.MetricFamilySamples;
import io.prometheus.client.CollectorRegistry;
import io.prometheus.client.Counter;
import io.prometheus.client.GaugeMetricFamily;
import io.prometheus.client.Histogram;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.LongSupplier;
import java.util.function.Supplier;
import java.util.stream.DoubleStream;
import java.util.stream.Stream;
import org.pytorch.serve.wlm.WorkerState;
import smartbatch.frontend.models.Models.Version;

/** What the frontend counts of requests, queues and workers: Prometheus metrics, for handlers of any thread. */
public final class Ledger {
    /** The status of a request whose connection broke before all of its answer was written. */
    static final int ABORTED = 499;
    /** Codes of the errors that the frontend refuses with; others never become a label. */
    private static final Set<String> REASONS =
            Set.of(
                    "deadline_passed", "draining", "no_worker", "overloaded", "token_refused", "too_large", "too_slow",
                    "unknown_model", "worker_died", "worker_out_of_memory");
    /** Upper bounds in seconds, 1 ms to 123 s: each a tenth above the one before, so quantiles are good to a tenth. */
    private static final double[] BOUNDS =
            DoubleStream.iterate(0.001, bound -> bound * 1.1).limit(124).map(b -> Math.rint(b * 1e6) / 1e6).toArray();

    /** A prediction asked for, of a model that is registered, or "". */
    record Asked(String model, String route, long beganNs) {}

    private final Supplier<List<Version>> versions;
    private final Set<String> knownModels = ConcurrentHashMap.newKeySet();
    private final CollectorRegistry registry = new CollectorRegistry();
    private final Counter requests =
            Counter.build("smartbatch_http_requests_total", "Predictions asked for over HTTP, by the answer's status.")
                    .labelNames("model", "route", "status")
                    .register(registry);
    private final Histogram seconds =
            Histogram.build("smartbatch_request_seconds", "From a request's first line to its answer's last byte.")
                    .labelNames("model", "route", "outcome")
                    .buckets(BOUNDS)
                    .register(registry);
    private final Counter rejected =
            Counter.build("smartbatch_rejected_total", "Requests that the frontend refused, by its error's code.")
                    .labelNames("reason")
                    .register(registry);
    private final Counter restarts =
            Counter.build("smartbatch_worker_restarts_total", "Starts of workers that had ended.")
                    .labelNames("model")
                    .register(registry);
    private volatile LongSupplier bytes = () -> 0;
    private volatile LongSupplier byteLimit = () -> 0;

    /** @param versions what is registered when it is asked. */
    public Ledger(Supplier<List<Version>> versions) {
        this.versions = versions;
        REASONS.forEach(rejected::labels); // a series that appears with its first event hides it from rate()
    }

    /** Say from now on how many bytes of requests are held, and how many may be. */
    public void watchBytes(LongSupplier inFlight, LongSupplier limit) {
        bytes = inFlight;
        byteLimit = limit;
    }

    Asked ask(Route route) {
        String model = route.model();
        if (!knownModels.contains(model)) {
            versions.get().forEach(version -> knownModels.add(version.name()));
            // A request that names none is the only one's, as TorchServe has it.
            boolean isOnly = model.isEmpty() && knownModels.size() == 1;
            model = isOnly ? knownModels.iterator().next() : knownModels.contains(model) ? model : "";
        }
        return new Asked(model, route.name(), System.nanoTime());
    }

    /** @param reason the code of an error, else null. */
    void answered(Asked asked, int status, String reason) {
        requests.labels(asked.model, asked.route, Integer.toString(status)).inc();
        seconds.labels(asked.model, asked.route, status / 100 == 2 ? "success" : "failure")
                .observe((System.nanoTime() - asked.beganNs) / 1e9);
        if (reason != null && REASONS.contains(reason)) {
            rejected.labels(reason).inc();
        }
    }

    /** @param versionedName of a worker's model, as TorchServe's log has it: name_version. */
    void restarted(String versionedName) {
        Stream<Version> all = versions.get().stream();
        Stream<Version> same = all.filter(version -> versionedName.equals(version.name() + "_" + version.version()));
        restarts.labels(same.map(Version::name).findFirst().orElse("")).inc();
    }

    /** Everything that is known now. */
    List<MetricFamilySamples> families() {
        List<String> labels = List.of("model", "version");
        var queued = new GaugeMetricFamily("smartbatch_queue_requests", "Requests that wait for a worker.", labels);
        var capacity = new GaugeMetricFamily("smartbatch_queue_capacity", "Requests that may wait.", labels);
        List<String> withState = List.of("model", "version", "state");
        var workers = new GaugeMetricFamily("smartbatch_workers", "Workers by state.", withState);
        for (Version version : versions.get()) {
            requests.labels(version.name(), "predictions", "200");
            seconds.labels(version.name(), "predictions", "success");
            restarts.labels(version.name());
            queued.addMetric(List.of(version.name(), version.version()), version.queueLength());
            capacity.addMetric(List.of(version.name(), version.version()), version.queueCapacity());
            Stream<String> states = Stream.of(WorkerState.values()).map(WorkerState::name);
            Stream.concat(Stream.of("STARTING"), states).forEach(state -> {
                String name = state.replace("WORKER_", "").toLowerCase(Locale.ROOT);
                int number = version.workers().getOrDefault(state, 0);
                workers.addMetric(List.of(version.name(), version.version(), name), number);
            });
        }
        List<MetricFamilySamples> all = Collections.list(registry.metricFamilySamples());
        Collections.addAll(all, queued, capacity, workers);
        String held = "smartbatch_in_flight_bytes";
        all.add(new GaugeMetricFamily(held, "Bytes of requests that the frontend holds.", bytes.getAsLong()));
        String limit = "smartbatch_in_flight_limit_bytes";
        all.add(new GaugeMetricFamily(limit, "Bytes of requests that it may hold.", byteLimit.getAsLong()));
        return all;
    }
}
