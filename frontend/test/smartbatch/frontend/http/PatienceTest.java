package smartbatch.frontend.http;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.ssl.SslHandshakeCompletionEvent;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.TimeUnit;
import org.junit.Test;

public class PatienceTest {
    private static final long TIMEOUT_MS = 20;

    private Object event;
    private final EmbeddedChannel channel =
            new EmbeddedChannel(
                    new HttpServerCodec(),
                    new Patience(TIMEOUT_MS, TimeUnit.MILLISECONDS),
                    new ChannelInboundHandlerAdapter() {
                        @Override
                        public void userEventTriggered(ChannelHandlerContext ctx, Object triggered) {
                            event = triggered;
                        }
                    });

    private void receive(String text) {
        channel.writeInbound(Unpooled.copiedBuffer(text, StandardCharsets.ISO_8859_1));
    }

    private void waitUntilClosed() throws InterruptedException {
        while (channel.isOpen()) {
            Thread.sleep(1);
            channel.runScheduledPendingTasks();
        }
    }

    /** Several times what a client may take. */
    private void pass() throws InterruptedException {
        for (int i = 0; i < 100; i++) {
            Thread.sleep(TIMEOUT_MS / 5);
            channel.runScheduledPendingTasks();
        }
    }

    @Test(timeout = 60_000)
    public void anIdleConnectionEndsWithoutAWord() throws InterruptedException {
        waitUntilClosed();
        assertNull(channel.readOutbound());
    }

    @Test(timeout = 60_000)
    public void halfAHeadIs408() throws InterruptedException {
        receive("GET / HT");
        waitUntilClosed();
        String said = channel.<ByteBuf>readOutbound().toString(StandardCharsets.ISO_8859_1);
        assertTrue(said, said.startsWith("HTTP/1.1 408 Request Timeout"));
        assertNull(event);
    }

    @Test(timeout = 60_000)
    public void aHandshakeIsNoHead() throws InterruptedException {
        channel.pipeline().fireChannelReadComplete(); // its first bytes
        channel.pipeline().fireUserEventTriggered(SslHandshakeCompletionEvent.SUCCESS);
        channel.pipeline().fireChannelReadComplete();
        waitUntilClosed();
        assertNull(channel.readOutbound());
    }

    @Test(timeout = 60_000)
    public void halfABodyIsTheInsidesToEnd() throws InterruptedException {
        receive("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nx");
        while (event == null) {
            Thread.sleep(1);
            channel.runScheduledPendingTasks();
        }
        assertEquals(Patience.BODY_IS_LATE, event);
        assertTrue(channel.isOpen());
        waitUntilClosed(); // where nobody inside did
    }

    @Test(timeout = 60_000)
    public void nobodyIsHurriedWhoWaitsForAnAnswer() throws InterruptedException {
        receive("GET / HTTP/1.1\r\n\r\nGET /2 HT");
        pass();
        assertTrue(channel.isOpen());
        channel.writeOutbound(Answer.json(HttpResponseStatus.OK, "{}"));
        waitUntilClosed();
    }
}
