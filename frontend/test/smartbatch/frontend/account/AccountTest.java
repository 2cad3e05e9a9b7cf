package smartbatch.frontend.account;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelOutboundHandlerAdapter;
import io.netty.channel.ChannelPromise;
import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.http.DefaultFullHttpRequest;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.DefaultHttpContent;
import io.netty.handler.codec.http.DefaultHttpResponse;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.LastHttpContent;
import io.prometheus.client.Collector.MetricFamilySamples;
import io.prometheus.client.Collector.MetricFamilySamples.Sample;
import java.nio.channels.ClosedChannelException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.Test;
import smartbatch.frontend.http.Answer;
import smartbatch.frontend.models.Models.Version;

public class AccountTest {
    private final List<Version> registered = new ArrayList<>(List.of(version("m"), version("n")));
    private final Ledger ledger = new Ledger(() -> registered);
    private final EmbeddedChannel channel = new EmbeddedChannel(new Account(ledger));

    private static Version version(String name) {
        return new Version(name, "1.0", true, 3, 512, Map.of("WORKER_MODEL_LOADED", 2), 2);
    }

    private void ask(String uri) {
        ask(HttpMethod.POST, uri);
    }

    private void ask(HttpMethod method, String uri) {
        channel.writeInbound(new DefaultFullHttpRequest(HttpVersion.HTTP_1_1, method, uri));
    }

    private void answer(int status) {
        HttpResponseStatus line = HttpResponseStatus.valueOf(status);
        channel.writeOutbound(new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, line));
    }

    /** What is not 0: labels' values to value. */
    private Map<String, Double> counted(String sampleName) {
        Map<String, Double> found = new TreeMap<>();
        for (MetricFamilySamples family : ledger.families()) {
            for (Sample sample : family.samples) {
                if (sample.name.equals(sampleName) && sample.value != 0) {
                    found.put(String.join(" ", sample.labelValues), sample.value);
                }
            }
        }
        return found;
    }

    private Map<String, Double> requests() {
        return counted("smartbatch_http_requests_total");
    }

    @Test
    public void everyRequestIsInOneSeries() {
        ask("/predictions/m");
        answer(200);
        ask("/v2/models/n/infer");
        answer(400);
        ask("/predictions/m");
        answer(200);
        assertEquals(Map.of("m predictions 200", 2.0, "n v2 400", 1.0), requests());
        assertEquals(
                Map.of("m predictions success", 2.0, "n v2 failure", 1.0), counted("smartbatch_request_seconds_count"));
    }

    @Test
    public void whatIsNoPredictionIsNotCounted() {
        ask("/ping");
        answer(200);
        ask(HttpMethod.OPTIONS, "/predictions/m"); // answered with a description
        answer(200);
        assertEquals(Map.of(), requests());
        ask("/predictions/m");
        answer(200);
        assertEquals(Map.of("m predictions 200", 1.0), requests());
    }

    @Test
    public void whatIsNotAskedForIsNotAborted() {
        ask("/ping");
        channel.finish();
        assertEquals(Map.of(), requests());
    }

    @Test
    public void namesThatNobodyRegisteredMakeNoSeries() {
        for (int i = 0; i < 100; i++) {
            ask("/predictions/nobody" + i);
            answer(404);
        }
        assertEquals(Map.of(" predictions 404", 100.0), requests());
    }

    @Test
    public void aModelIsKnownAsSoonAsItIsRegistered() {
        ask("/predictions/late");
        answer(404);
        registered.add(version("late"));
        ask("/predictions/late");
        answer(200);
        assertEquals(Map.of(" predictions 404", 1.0, "late predictions 200", 1.0), requests());
    }

    @Test
    public void whoNamesNoModelAsksForTheOnlyOne() {
        ask("/invocations");
        answer(400);
        registered.remove(1);
        Ledger one = new Ledger(() -> registered);
        assertEquals("m", one.ask(new Route("invocations", "")).model());
        assertEquals(Map.of(" invocations 400", 1.0), requests());
    }

    @Test
    public void aClientThatGoesIsCountedOnce() {
        ask("/predictions/m");
        channel.close();
        channel.write(new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK)); // to nobody
        assertEquals(Map.of("m predictions 499", 1.0), requests());
    }

    @Test
    public void anAnswerThatCannotBeWrittenIsNone() {
        EmbeddedChannel broken =
                new EmbeddedChannel(
                        new ChannelOutboundHandlerAdapter() {
                            @Override
                            public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
                                promise.setFailure(new ClosedChannelException());
                            }
                        },
                        new Account(ledger));
        broken.writeInbound(new DefaultFullHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.POST, "/predictions/m"));
        broken.write(new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK));
        broken.close();
        assertEquals(Map.of("m predictions 499", 1.0), requests());
    }

    @Test
    public void anAnswerInPiecesCountsWithItsLast() {
        ask("/predictions/m");
        channel.writeOutbound(new DefaultHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK));
        channel.writeOutbound(new DefaultHttpContent(Unpooled.copiedBuffer("a", StandardCharsets.UTF_8)));
        assertEquals(Map.of(), requests());
        channel.writeOutbound(LastHttpContent.EMPTY_LAST_CONTENT);
        assertEquals(Map.of("m predictions 200", 1.0), requests());
    }

    @Test
    public void continueIsNoAnswer() {
        ask("/predictions/m");
        answer(100);
        assertEquals(Map.of(), requests());
        answer(200);
        assertEquals(Map.of("m predictions 200", 1.0), requests());
    }

    @Test
    public void refusalsOfTheFrontendHaveAReason() {
        ask("/predictions/m");
        channel.writeOutbound(Answer.error(HttpResponseStatus.SERVICE_UNAVAILABLE, "overloaded", "full"));
        ask("/predictions/m");
        channel.writeOutbound(Answer.error(HttpResponseStatus.BAD_REQUEST, "malformed", "not a refusal"));
        ask("/predictions/m");
        channel.writeOutbound(Answer.error(HttpResponseStatus.SERVICE_UNAVAILABLE, "anything_at_all", ""));
        ask("/predictions/m");
        var workers = Answer.error(HttpResponseStatus.SERVICE_UNAVAILABLE, "overloaded", "a worker's own");
        workers.headers().set("X-SmartBatch-Batch-Size", "1");
        channel.writeOutbound(workers);
        assertEquals(Map.of("overloaded", 1.0), counted("smartbatch_rejected_total"));
        assertEquals(Map.of("m predictions 503", 3.0, "m predictions 400", 1.0), requests());
    }

    @Test
    public void bodiesPassUntouched() {
        ask("/predictions/m");
        var refusal = Answer.error(HttpResponseStatus.SERVICE_UNAVAILABLE, "overloaded", "full");
        ByteBuf before = refusal.content().copy();
        channel.writeOutbound(refusal);
        DefaultFullHttpResponse after = channel.readOutbound();
        assertEquals(before, after.content());
        assertEquals(1, after.refCnt());
    }

    @Test
    public void queuesAndWorkersAreLookedAtWhenAsked() {
        assertEquals(Map.of("m 1.0", 3.0, "n 1.0", 3.0), counted("smartbatch_queue_requests"));
        assertEquals(Map.of("m 1.0", 512.0, "n 1.0", 512.0), counted("smartbatch_queue_capacity"));
        assertEquals(
                Map.of("m 1.0 model_loaded", 2.0, "n 1.0 model_loaded", 2.0), counted("smartbatch_workers"));
        ledger.watchBytes(() -> 7, () -> 8);
        assertEquals(Map.of("", 7.0), counted("smartbatch_in_flight_bytes"));
        assertEquals(Map.of("", 8.0), counted("smartbatch_in_flight_limit_bytes"));
    }

    @Test
    public void restartsAreTheirModels() {
        ledger.restarted("m_1.0");
        ledger.restarted("m_1.0");
        assertEquals(Map.of("m", 2.0), counted("smartbatch_worker_restarts_total"));
    }

    @Test
    public void boundsAreATenthApart() {
        ask("/predictions/m");
        answer(200);
        List<Double> bounds = new ArrayList<>();
        for (MetricFamilySamples family : ledger.families()) {
            for (Sample sample : family.samples) {
                int le = sample.labelNames.indexOf("le");
                if (le >= 0 && sample.labelValues.get(0).equals("m") && !sample.labelValues.get(le).equals("+Inf")) {
                    bounds.add(Double.parseDouble(sample.labelValues.get(le)));
                }
            }
        }
        assertEquals(0.001, bounds.get(0), 0);
        assertTrue(bounds.get(bounds.size() - 1) > 60);
        for (int i = 1; i < bounds.size(); i++) {
            assertTrue(bounds.get(i) / bounds.get(i - 1) < 1.1005);
        }
    }
}
