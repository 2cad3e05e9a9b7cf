package smartbatch.frontend.account;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import io.prometheus.client.CollectorRegistry;
import io.prometheus.client.Counter;
import io.prometheus.client.Gauge;
import java.util.List;
import java.util.Set;
import org.junit.Test;

public class ExpositionTest {
    private static final String HELP = "Torchserve prometheus counter metric with unit: ";

    private final CollectorRegistry stock = new CollectorRegistry();
    private final Ledger ledger = new Ledger(List::of);

    private Counter counter(String name, String unit, String... labels) {
        return Counter.build(name, HELP + unit).labelNames(labels).register(stock);
    }

    private String text(String... names) {
        return Exposition.text(ledger, stock, Set.of(names));
    }

    private void has(String... lines) {
        String text = text();
        String expected = String.join("\n", lines) + "\n";
        assertTrue(expected + " is not in\n" + text, text.contains(expected));
    }

    @Test
    public void torchServesNamesAreInSnakeCaseAndBaseUnits() {
        counter("Requests2XX", "Count", "Level", "Hostname").labels("Host", "h").inc(3);
        Gauge.build("WorkerThreadTime", HELP + "Milliseconds").labelNames("Level", "Hostname").register(stock)
                .labels("Host", "h").set(250);
        counter("ts_queue_latency_microseconds", "Microseconds", "model_name").labels("m").inc(2e6);
        counter("ts_inference_requests_total", "Count", "model_name").labels("m").inc();
        has(
                "# HELP ts_requests_2xx_total TorchServe's Requests2XX.",
                "# TYPE ts_requests_2xx_total counter",
                "ts_requests_2xx_total{level=\"Host\",hostname=\"h\",} 3.0");
        has("# TYPE ts_worker_thread_time_seconds gauge", "ts_worker_thread_time_seconds{level=\"Host\",hostname=\"h\",} 0.25");
        has("ts_queue_latency_seconds_total{model_name=\"m\",} 2.0");
        has("ts_inference_requests_total{model_name=\"m\",} 1.0");
    }

    @Test
    public void acronymsAreOneWord() {
        Gauge.build("CPUUtilization", HELP + "Percent").register(stock).set(5);
        Gauge.build("GPUMemoryUsed", HELP + "Megabytes").register(stock).set(6);
        has("ts_cpu_utilization 5.0");
        has("ts_gpu_memory_used 6.0");
    }

    @Test
    public void usersOwnNamesStay() {
        counter("my_tokens", "ms", "ModelName").labels("m").inc();
        has("# HELP my_tokens " + HELP + "ms", "# TYPE my_tokens counter", "my_tokens{model_name=\"m\",} 1.0");
    }

    @Test
    public void theHandlersCountersAreAHistogram() {
        Counter buckets = counter("smartbatch_batch_size_bucket", "unit", "model", "level", "le", "Hostname");
        for (String model : List.of("1", "m")) {
            for (String le : List.of("16", "+Inf", "1", "8", "2")) {
                buckets.labels(model, "Model", le, "h").inc(4);
            }
        }
        Counter count = counter("smartbatch_batch_size_count", "unit", "model", "level", "Hostname");
        Counter sum = counter("smartbatch_batch_size_sum", "unit", "model", "level", "Hostname");
        for (String model : List.of("m", "1")) {
            count.labels(model, "Model", "h").inc(4);
            sum.labels(model, "Model", "h").inc(20);
        }
        String of = "{model=\"%s\",level=\"Model\",le=\"%s\",hostname=\"h\",} 4.0";
        has(
                "# HELP smartbatch_batch_size Requests in a batch.",
                "# TYPE smartbatch_batch_size histogram",
                "smartbatch_batch_size_bucket" + of.formatted("1", "1"),
                "smartbatch_batch_size_bucket" + of.formatted("1", "2"),
                "smartbatch_batch_size_bucket" + of.formatted("1", "8"),
                "smartbatch_batch_size_bucket" + of.formatted("1", "16"),
                "smartbatch_batch_size_bucket" + of.formatted("1", "+Inf"),
                "smartbatch_batch_size_count{model=\"1\",level=\"Model\",hostname=\"h\",} 4.0",
                "smartbatch_batch_size_sum{model=\"1\",level=\"Model\",hostname=\"h\",} 20.0",
                "smartbatch_batch_size_bucket" + of.formatted("m", "1"));
        assertFalse(text().contains("TYPE smartbatch_batch_size_count"));
    }

    @Test
    public void aWorkerDoesNotSpeakForTheFrontend() {
        counter("smartbatch_http_requests_total", "unit", "model").labels("m").inc(7_000_000);
        assertFalse(text().contains("7000000"));
        assertEquals(1, text().split("TYPE smartbatch_http_requests_total", -1).length - 1);
    }

    @Test
    public void onlyTheSamplesThatAreAskedFor() {
        counter("Requests2XX", "Count").inc();
        counter("Requests4XX", "Count").inc();
        String found = text("ts_requests_4xx_total");
        assertEquals(
                "# HELP ts_requests_4xx_total TorchServe's Requests4XX.\n"
                        + "# TYPE ts_requests_4xx_total counter\n"
                        + "ts_requests_4xx_total 1.0\n",
                found);
        assertEquals("", text("no_such_metric"));
    }

    @Test
    public void labelsAreEscaped() {
        counter("my_total", "unit", "label").labels("a\"b\\c\nd").inc();
        has("my_total{label=\"a\\\"b\\\\c\\nd\",} 1.0");
    }
}
