package smartbatch.frontend.account;

import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.QueryStringDecoder;
import io.prometheus.client.Collector.MetricFamilySamples;
import io.prometheus.client.CollectorRegistry;
import io.prometheus.client.exporter.common.TextFormat;
import java.io.IOException;
import java.io.StringWriter;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.pytorch.serve.archive.DownloadArchiveException;
import org.pytorch.serve.archive.model.ModelException;
import org.pytorch.serve.archive.workflow.WorkflowException;
import org.pytorch.serve.http.HttpRequestHandlerChain;
import org.pytorch.serve.util.NettyUtils;
import org.pytorch.serve.wlm.WorkerInitializationException;

/** GET of one path: what the {@link Ledger} and TorchServe count, as Prometheus' text, in the place of TorchServe's. */
public final class Exposition extends HttpRequestHandlerChain {
    private final Ledger ledger;
    private final String path;

    /** @param path where it is, as /metrics. */
    public Exposition(Ledger ledger, String path) {
        this.ledger = ledger;
        this.path = path;
    }

    @Override
    public void handleRequest(
            ChannelHandlerContext ctx, FullHttpRequest request, QueryStringDecoder address, String[] segments)
            throws ModelException, DownloadArchiveException, WorkflowException, WorkerInitializationException {
        if (!(address.path() + "/").startsWith(path + "/")) {
            chain.handleRequest(ctx, request, address, segments);
            return;
        }
        Set<String> names = Set.copyOf(address.parameters().getOrDefault("name[]", List.of()));
        byte[] text = text(ledger, CollectorRegistry.defaultRegistry, names).getBytes(StandardCharsets.UTF_8);
        var answer =
                new DefaultFullHttpResponse(
                        HttpVersion.HTTP_1_1, HttpResponseStatus.OK, Unpooled.wrappedBuffer(text));
        answer.headers().set(HttpHeaderNames.CONTENT_TYPE, TextFormat.CONTENT_TYPE_004);
        NettyUtils.sendHttpResponse(ctx, answer, true);
    }

    /**
     * Every family once, in the order of their names.
     *
     * @param stock TorchServe's own metrics and those that its workers print.
     * @param names of the samples wanted; none means all.
     */
    static String text(Ledger ledger, CollectorRegistry stock, Set<String> names) {
        Map<String, MetricFamilySamples> families = new TreeMap<>();
        Spelling.families(Collections.list(stock.metricFamilySamples())).forEach(f -> families.put(f.name, f));
        // Last: a worker that prints one of these names does not speak for the frontend.
        ledger.families().forEach(family -> families.put(family.name, family));
        if (!names.isEmpty()) {
            families.values().forEach(family -> family.samples.removeIf(sample -> !names.contains(sample.name)));
            families.values().removeIf(family -> family.samples.isEmpty());
        }
        StringWriter text = new StringWriter();
        try {
            TextFormat.write004(text, Collections.enumeration(families.values()));
        } catch (IOException e) {
            throw new UncheckedIOException(e); // a StringWriter has none
        }
        return text.toString();
    }
}
