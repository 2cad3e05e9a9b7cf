package smartbatch.frontend.http;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelFuture;
import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.channel.socket.ChannelInputShutdownEvent;
import io.netty.handler.codec.http.DefaultHttpContent;
import io.netty.handler.codec.http.DefaultHttpResponse;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpObject;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponse;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.LastHttpContent;
import java.nio.charset.StandardCharsets;
import org.junit.After;
import org.junit.Test;

public class OrderingTest {
    private final EmbeddedChannel channel = new EmbeddedChannel(new HttpServerCodec(), new Ordering());

    @After
    public void end() {
        channel.finishAndReleaseAll();
    }

    private void receive(String text) {
        channel.writeInbound(Unpooled.copiedBuffer(text, StandardCharsets.ISO_8859_1));
    }

    /** The path of the next whole request that went inward; null where none did. */
    private String request() {
        HttpRequest head = channel.readInbound();
        if (head == null) {
            return null;
        }
        while (!(channel.<HttpObject>readInbound() instanceof LastHttpContent)) {}
        return head.uri();
    }

    private ChannelFuture answer(String text) {
        return channel.writeOneOutbound(answerOf(text));
    }

    private static FullHttpResponse answerOf(String text) {
        return Answer.json(HttpResponseStatus.OK, text);
    }

    private String sent() {
        channel.flushOutbound();
        StringBuilder all = new StringBuilder();
        for (io.netty.buffer.ByteBuf piece = channel.readOutbound(); piece != null; piece = channel.readOutbound()) {
            all.append(piece.toString(StandardCharsets.ISO_8859_1));
            piece.release();
        }
        return all.toString();
    }

    private static String get(String path) {
        return "GET " + path + " HTTP/1.1\r\n\r\n";
    }

    @Test
    public void theNextRequestWaitsForTheAnswer() {
        receive(get("/1") + get("/2") + get("/3"));
        assertEquals("/1", request());
        assertNull(request());
        assertFalse("what waits stops the reading", channel.config().isAutoRead());
        answer("one");
        assertNull("written, not sent", request());
        assertTrue(sent().contains("connection: keep-alive\r\n\r\none"));
        assertEquals("/2", request());
        channel.writeOutbound(answerOf("two"));
        assertEquals("/3", request());
        assertTrue(channel.config().isAutoRead());
        channel.writeOutbound(answerOf("three"));
        assertTrue(sent().endsWith("three"));
        assertTrue(channel.isOpen());
    }

    @Test
    public void anInterimAnswerIsNotTheAnswer() {
        receive("POST /1 HTTP/1.1\r\nContent-Length: 1\r\n\r\n");
        channel.writeOutbound(Answer.json(HttpResponseStatus.CONTINUE, ""));
        receive("x" + get("/2"));
        assertEquals("/1", request());
        channel.writeOutbound(answerOf("one"));
        assertEquals("/2", request());
        assertTrue(sent().startsWith("HTTP/1.1 100 Continue"));
    }

    @Test
    public void aStreamIsOneAnswer() {
        receive(get("/1") + get("/2"));
        request();
        channel.writeOutbound(new DefaultHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK));
        channel.writeOutbound(new DefaultHttpContent(Unpooled.EMPTY_BUFFER));
        assertNull(request());
        channel.writeOutbound(LastHttpContent.EMPTY_LAST_CONTENT);
        assertEquals("/2", request());
    }

    @Test
    public void anAnswerThatNobodyAwaitsIsDropped() {
        receive(get("/1"));
        channel.writeOutbound(answerOf("one"));
        ChannelFuture second = answer("again");
        sent();
        assertFalse(second.isSuccess());
        assertTrue(channel.isOpen());
    }

    @Test
    public void theConnectionEndsWhereTheClientOrTheAnswerSaysSo() {
        String[] requests = {
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nX : y\r\n\r\n",
        };
        for (String request : requests) {
            EmbeddedChannel one = new EmbeddedChannel(new HttpServerCodec(), new Ordering());
            one.writeInbound(Unpooled.copiedBuffer(request + get("/2"), StandardCharsets.ISO_8859_1));
            FullHttpResponse answer = answerOf("one");
            one.writeOutbound(answer);
            assertEquals("close", answer.headers().get(HttpHeaderNames.CONNECTION));
            assertFalse(request, one.isOpen());
            one.finishAndReleaseAll();
        }
        receive(get("/"));
        FullHttpResponse answer = answerOf("one");
        answer.headers().set(HttpHeaderNames.CONNECTION, "close");
        channel.writeOutbound(answer);
        assertFalse(channel.isOpen());
    }

    @Test
    public void anOldClientMayKeepTheConnectionAndGetsNoChunks() {
        String head = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        receive(head);
        FullHttpResponse kept = answerOf("one");
        channel.writeOutbound(kept);
        assertEquals("keep-alive", kept.headers().get(HttpHeaderNames.CONNECTION));
        receive(head);
        HttpResponse stream = new DefaultHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK);
        stream.headers().set(HttpHeaderNames.TRANSFER_ENCODING, "chunked");
        channel.writeOutbound(stream, LastHttpContent.EMPTY_LAST_CONTENT);
        assertFalse(stream.headers().contains(HttpHeaderNames.TRANSFER_ENCODING));
        assertFalse(channel.isOpen());
    }

    @Test
    public void anAnswerBeforeTheBodyEndsTheConnection() {
        receive("POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
        FullHttpResponse refusal = answerOf("no");
        channel.writeOutbound(refusal);
        assertEquals("close", refusal.headers().get(HttpHeaderNames.CONNECTION));
        assertFalse(channel.isOpen());
    }

    @Test
    public void aClientThatSendsNoMoreGetsEveryAnswer() {
        receive(get("/1") + get("/2"));
        channel.pipeline().fireUserEventTriggered(ChannelInputShutdownEvent.INSTANCE);
        channel.writeOutbound(answerOf("one"));
        FullHttpResponse last = answerOf("two");
        assertTrue(channel.isOpen());
        channel.writeOutbound(last);
        assertEquals("close", last.headers().get(HttpHeaderNames.CONNECTION));
        assertFalse(channel.isOpen());
    }

    @Test
    public void aClientThatLeavesHalfARequestOrNoneIsNotWaitedFor() {
        receive("POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
        channel.pipeline().fireUserEventTriggered(ChannelInputShutdownEvent.INSTANCE);
        assertFalse(channel.isOpen());
        EmbeddedChannel idle = new EmbeddedChannel(new HttpServerCodec(), new Ordering());
        idle.pipeline().fireUserEventTriggered(ChannelInputShutdownEvent.INSTANCE);
        assertFalse(idle.isOpen());
    }
}
