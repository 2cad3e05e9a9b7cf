package smartbatch.frontend.operations;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;

import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelOutboundHandlerAdapter;
import io.netty.channel.ChannelPromise;
import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.http.DefaultFullHttpRequest;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.DefaultHttpRequest;
import io.netty.handler.codec.http.DefaultLastHttpContent;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.LastHttpContent;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.junit.Test;
import smartbatch.frontend.models.Models;

public class DrainTest {
    private final Drain drain = new Drain(new Models());
    private final EmbeddedChannel channel = new EmbeddedChannel(new DrainHandler(drain));

    private static HttpRequest head() {
        return new DefaultHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.POST, "/predictions/m");
    }

    private static LastHttpContent rest() {
        return new DefaultLastHttpContent(Unpooled.copiedBuffer("body", StandardCharsets.UTF_8));
    }

    private static FullHttpResponse answer(HttpResponseStatus status) {
        return new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, status);
    }

    private String owed() {
        return drain.state().toString().replaceAll("\"|draining_since[^,]*,|quiet_ms[^,]*,", "");
    }

    @Test
    public void untilItDrainsEverythingPasses() {
        assertEquals("{queued:0,answering:0,receiving:0,connections:1}", owed());
        HttpRequest request = head();
        channel.writeInbound(request);
        assertSame(request, channel.readInbound());
        assertEquals("{queued:0,answering:0,receiving:1,connections:1}", owed());
        channel.writeOutbound(answer(HttpResponseStatus.CONTINUE));
        channel.writeInbound(rest());
        assertEquals("{queued:0,answering:1,receiving:0,connections:1}", owed());
        channel.writeOutbound(answer(HttpResponseStatus.OK));
        assertEquals("{queued:0,answering:0,receiving:0,connections:1}", owed());
        channel.readOutbound();
        assertNull(((FullHttpResponse) channel.readOutbound()).headers().get("Connection"));
        assertTrue(channel.isActive());
        channel.close();
        assertEquals("{queued:0,answering:0,receiving:0,connections:0}", owed());
    }

    @Test
    public void whatCameBeforeIsAnsweredAndEndsItsConnection() {
        channel.writeInbound(head());
        drain.begin();
        channel.writeInbound(rest());
        assertNotNull(channel.readInbound());
        assertNotNull(channel.readInbound());
        channel.writeOutbound(answer(HttpResponseStatus.OK));
        assertEquals("close", ((FullHttpResponse) channel.readOutbound()).headers().get("Connection"));
        assertFalse(channel.isActive());
    }

    @Test
    public void aNewcomerIsRefusedOnceHeHasSentItAll() {
        drain.begin();
        channel.writeInbound(head());
        assertNull(channel.readOutbound());
        LastHttpContent rest = rest();
        channel.writeInbound(rest);
        FullHttpResponse refusal = channel.readOutbound();
        assertEquals(503, refusal.status().code());
        assertEquals("1", refusal.headers().get("Retry-After"));
        assertEquals("close", refusal.headers().get("Connection"));
        assertTrue(refusal.content().toString(StandardCharsets.UTF_8).contains("\"code\":\"draining\""));
        assertNull(channel.readInbound());
        assertEquals(0, rest.refCnt());
        assertFalse(channel.isActive());
    }

    @Test
    public void whoAsksFirstIsToldAtOnce() {
        drain.begin();
        HttpRequest request = head();
        request.headers().set("Expect", "100-continue");
        channel.writeInbound(request);
        assertEquals(503, ((FullHttpResponse) channel.readOutbound()).status().code());
        assertFalse(channel.isActive());
    }

    @Test
    public void theDrainItselfIsReachedOnASharedPort() {
        drain.begin();
        FullHttpRequest request = new DefaultFullHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.GET, "/drain");
        channel.writeInbound(request);
        assertSame(request, channel.readInbound());
    }

    @Test
    public void silentConnectionsEnd() throws InterruptedException {
        drain.begin();
        EmbeddedChannel accepted = new EmbeddedChannel(new DrainHandler(drain));
        assertTrue(channel.isActive());
        Thread.sleep(600);
        channel.runPendingTasks();
        accepted.runPendingTasks();
        assertFalse(channel.isActive());
        assertFalse(accepted.isActive());
    }

    @Test
    public void aSlowReaderIsNoSilentOne() throws InterruptedException {
        List<ChannelPromise> unsent = new ArrayList<>();
        channel.pipeline()
                .addFirst(
                        new ChannelOutboundHandlerAdapter() {
                            @Override
                            public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
                                unsent.add(promise);
                            }
                        });
        channel.writeInbound(head(), rest());
        channel.writeOneOutbound(answer(HttpResponseStatus.OK));
        drain.begin();
        Thread.sleep(600);
        channel.runPendingTasks();
        assertTrue(channel.isActive());
        unsent.get(0).setSuccess();
        assertTrue("nobody told the client that this was the last answer", channel.isActive());
        channel.writeInbound(head(), rest());
        unsent.get(1).setSuccess();
        assertFalse(channel.isActive());
    }

    @Test
    public void beginningTwiceIsBeginningOnce() throws InterruptedException {
        assertFalse(drain.isDraining());
        drain.begin();
        String since = drain.state().get("draining_since").toString();
        Thread.sleep(2);
        drain.begin();
        assertEquals(since, drain.state().get("draining_since").toString());
    }
}
