package smartbatch.frontend.http;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import io.netty.buffer.Unpooled;
import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpRequestDecoder;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.util.AttributeKey;
import java.nio.charset.StandardCharsets;
import org.junit.Test;

public class BudgetTest {
    private final BytesInFlight all = new BytesInFlight(1000);

    private EmbeddedChannel connect() {
        EmbeddedChannel channel = new EmbeddedChannel(new HttpRequestDecoder(), new Budget(all, 400));
        channel.pipeline().addLast("aggregator", new HttpObjectAggregator(400));
        return channel;
    }

    private static EmbeddedChannel receive(EmbeddedChannel channel, String text) {
        channel.writeInbound(Unpooled.copiedBuffer(text, StandardCharsets.ISO_8859_1));
        return channel;
    }

    private static String post(int length) {
        return "POST / HTTP/1.1\r\nContent-Length: " + length + "\r\n\r\n";
    }

    private static String refusal(EmbeddedChannel channel) {
        FullHttpResponse answer = channel.readOutbound();
        assertEquals("close", answer.headers().get("connection"));
        String said = answer.status().code() + " " + answer.content().toString(StandardCharsets.UTF_8).split("\"")[5];
        assertEquals(answer.status().code() == 503 ? "1" : null, answer.headers().get("retry-after"));
        answer.release();
        return said;
    }

    @Test
    public void aBodyCountsFromItsHeadToItsAnswer() {
        EmbeddedChannel channel = receive(connect(), post(10));
        assertEquals(10, all.bytesInFlight());
        receive(channel, "0123456789");
        channel.<FullHttpRequest>readInbound().release();
        channel.writeOutbound(Answer.json(HttpResponseStatus.CONTINUE, ""));
        assertEquals(10, all.bytesInFlight());
        channel.writeOutbound(Answer.json(HttpResponseStatus.OK, "{}"));
        assertEquals(0, all.bytesInFlight());
        channel.finishAndReleaseAll();
    }

    @Test
    public void aBodyMayHaveHalfOfWhatTheOthersLeave() {
        receive(connect(), post(400));
        assertEquals("503 overloaded", refusal(receive(connect(), post(301))));
        receive(connect(), post(300));
        assertEquals("503 overloaded", refusal(receive(connect(), post(151))));
        assertNull("small ones find room", receive(connect(), post(100)).readOutbound());
        assertEquals(800, all.bytesInFlight());
    }

    @Test
    public void whatIsRefusedIsNotRead() {
        EmbeddedChannel channel = receive(connect(), post(401));
        assertEquals("413 too_large", refusal(channel));
        receive(channel, "x".repeat(401));
        assertNull(channel.readInbound());
        assertEquals(0, all.bytesInFlight());
        assertEquals("413 too_large", refusal(receive(connect(), "POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n")));
        assertEquals("415 unknown_format", refusal(receive(connect(), "POST / HTTP/1.1\r\nContent-Type: text/plain\r\n"
                + "content-type:  APPLICATION/x-www-form-urlencoded;x\r\nContent-Length: 9\r\n\r\n")));
        assertEquals("400 malformed", refusal(receive(connect(), "POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n")));
        assertEquals(0, all.bytesInFlight());
    }

    @Test
    public void piecesOfUnknownNumberAreCountedAsTheyCome() {
        EmbeddedChannel channel = receive(connect(), "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        receive(channel, "c8\r\n" + "x".repeat(200) + "\r\n");
        assertEquals(200, all.bytesInFlight());
        receive(channel, "c9\r\n" + "x".repeat(201) + "\r\n");
        assertEquals("413 too_large", refusal(channel));
        assertEquals("with what the aggregator had", 0, all.bytesInFlight());
        assertNull(channel.pipeline().get(HttpObjectAggregator.class));
        receive(connect(), post(400));
        receive(connect(), post(300));
        channel = receive(connect(), "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        assertEquals("503 overloaded", refusal(receive(channel, "c8\r\n" + "x".repeat(200) + "\r\n")));
    }

    @Test
    public void aLateBodyIs408() {
        EmbeddedChannel channel = receive(connect(), post(10));
        channel.pipeline().fireUserEventTriggered(Patience.BODY_IS_LATE);
        assertEquals("408 too_slow", refusal(channel));
        assertEquals(0, all.bytesInFlight());
    }

    @Test(timeout = 60_000)
    public void aBodyWhoseClientIsGoneCountsUntilAWorkerHadIt() throws InterruptedException {
        EmbeddedChannel channel = receive(connect(), post(10));
        channel.attr(AttributeKey.valueOf("session")).set("a request");
        channel.pipeline().fireChannelInactive(); // closing an embedded channel would cancel its timers
        assertEquals(10, all.bytesInFlight());
        channel.attr(AttributeKey.valueOf("session")).set(null);
        while (all.bytesInFlight() > 0) {
            Thread.sleep(10);
            channel.runScheduledPendingTasks();
        }
        receive(connect(), post(10)).pipeline().fireChannelInactive();
        assertEquals("nobody has it", 0, all.bytesInFlight());
    }

    @Test
    public void brokenRequestsAreLeftToTorchServe() {
        EmbeddedChannel channel = receive(connect(), "POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n");
        FullHttpRequest request = channel.readInbound();
        assertTrue(request.decoderResult().isFailure());
        assertFalse(channel.outboundMessages().iterator().hasNext());
        request.release();
    }
}
