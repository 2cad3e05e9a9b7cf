package smartbatch.frontend.account;

import io.prometheus.client.Collector.MetricFamilySamples;
import io.prometheus.client.Collector.MetricFamilySamples.Sample;
import io.prometheus.client.Collector.Type;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * TorchServe's metrics as Prometheus wants them: snake_case, base units, counters in _total, true histograms.
 *
 * <p>Its names that are not in snake_case get it, with ts_ before them. Users' own that are stay as they are.
 */
final class Spelling {
    /** What the handler counts; TorchServe knows only the unit. */
    private static final Map<String, String> HELP =
            Map.ofEntries(
                    Map.entry("smartbatch_requests_total", "Answers that workers gave, by status."),
                    Map.entry("smartbatch_items_total", "Items of all requests."),
                    Map.entry("smartbatch_batches_total", "Batches that workers were given."),
                    Map.entry("smartbatch_late_batches_total", "Batches that took longer than target_p95_ms."),
                    Map.entry("smartbatch_batch_limit", "Requests that a worker takes at once, for target_p95_ms."),
                    Map.entry("smartbatch_batch_size", "Requests in a batch."),
                    Map.entry("smartbatch_forward_size", "Items in a forward."),
                    Map.entry("smartbatch_stage_seconds_total", "Time that workers spent in each stage."),
                    Map.entry("smartbatch_splits_total", "Micro-batches that were cut because they failed."),
                    Map.entry("smartbatch_model_loads_total", "Loads of the weights."),
                    Map.entry("smartbatch_model_weights_random", "1 where the weights are random numbers."),
                    Map.entry("smartbatch_model_loaded", "1 while the weights are in memory."),
                    Map.entry("smartbatch_model_load_seconds", "Time that the last load took."),
                    Map.entry("smartbatch_model_measuring", "1 while a faster way is measured or built."),
                    Map.entry("smartbatch_padding_ratio", "Share of items that were padding."));

    private static final Map<String, Double> SECONDS = Map.of("microseconds", 1e-6, "milliseconds", 1e-3, "ms", 1e-3);
    private static final Pattern SNAKE_CASE = Pattern.compile("[a-z_][a-z0-9_]*");
    private static final Pattern WORD_BEGINS = Pattern.compile("(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[A-Z][a-z])");
    private static final Pattern UNIT = Pattern.compile("with unit: (\\w+)$");

    private Spelling() {}

    static List<MetricFamilySamples> families(List<MetricFamilySamples> stock) {
        Map<String, MetricFamilySamples> byName = new TreeMap<>();
        stock.forEach(family -> byName.put(family.name, family));
        List<MetricFamilySamples> spelled = new ArrayList<>();
        for (MetricFamilySamples family : stock) {
            if (family.name.endsWith("_bucket")) {
                spelled.add(histogram(family.name.replaceFirst("_bucket$", ""), byName));
            }
        }
        byName.values().forEach(family -> spelled.add(spell(family)));
        return spelled;
    }

    /** A histogram that the handler counts as three counters: TorchServe's own have buckets that do not fit. */
    private static MetricFamilySamples histogram(String name, Map<String, MetricFamilySamples> byName) {
        List<Sample> samples = new ArrayList<>();
        for (String part : List.of("_bucket", "_count", "_sum")) {
            MetricFamilySamples counter = byName.remove(name + part);
            if (counter != null) {
                counter.samples.forEach(sample -> samples.add(spell(sample, sample.name, 1)));
            }
        }
        samples.sort(Comparator.comparing(Spelling::series).thenComparingDouble(Spelling::bound));
        return new MetricFamilySamples(name, Type.HISTOGRAM, HELP.getOrDefault(name, name), samples);
    }

    private static MetricFamilySamples spell(MetricFamilySamples family) {
        boolean isSnake = SNAKE_CASE.matcher(family.name).matches();
        String name = isSnake ? family.name : "ts_" + snake(family.name);
        double factor = 1;
        if (name.startsWith("ts_") && family.type != Type.HISTOGRAM) {
            Matcher unit = UNIT.matcher(family.help);
            String unitName = unit.find() ? unit.group(1).toLowerCase(Locale.ROOT) : "";
            if (SECONDS.containsKey(unitName)) {
                name = name.replaceFirst("_" + unitName + "$", "") + "_seconds";
                factor = SECONDS.get(unitName);
            }
            name += family.type == Type.COUNTER && !name.endsWith("_total") ? "_total" : "";
        }
        List<Sample> samples = new ArrayList<>();
        for (Sample sample : family.samples) { // a histogram's have an ending
            samples.add(spell(sample, name + sample.name.substring(family.name.length()), factor));
        }
        String help = name.startsWith("ts_") ? "TorchServe's " + family.name + "." : family.help;
        return new MetricFamilySamples(name, family.type, HELP.getOrDefault(name, help), samples);
    }

    private static Sample spell(Sample sample, String name, double factor) {
        List<String> labels = sample.labelNames.stream().map(Spelling::snake).toList();
        return new Sample(name, labels, sample.labelValues, sample.value * factor);
    }

    private static String snake(String text) {
        return WORD_BEGINS.matcher(text).replaceAll("_").toLowerCase(Locale.ROOT);
    }

    private static String series(Sample sample) {
        List<String> values = new ArrayList<>(sample.labelValues);
        int at = sample.labelNames.indexOf("le");
        if (at >= 0) {
            values.remove(at);
        }
        return values.toString();
    }

    /** Buckets in order, what is no bucket behind them. */
    private static double bound(Sample sample) {
        int at = sample.labelNames.indexOf("le");
        String bound = at < 0 ? "+Inf" : sample.labelValues.get(at);
        return bound.equals("+Inf") ? Double.POSITIVE_INFINITY : Double.parseDouble(bound);
    }
}
