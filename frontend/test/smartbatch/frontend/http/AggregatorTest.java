package smartbatch.frontend.http;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.DecoderResult;
import io.netty.handler.codec.http.DefaultHttpContent;
import io.netty.handler.codec.http.DefaultHttpRequest;
import io.netty.handler.codec.http.DefaultLastHttpContent;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponse;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.LastHttpContent;
import org.junit.Test;

public class AggregatorTest {
    private static final int MAX = 64 * 1024;

    private final EmbeddedChannel channel = new EmbeddedChannel(new Aggregator(MAX));

    private static HttpRequest head() {
        return new DefaultHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.POST, "/predictions/m");
    }

    private static ByteBuf piece(int length, int value) {
        ByteBuf buffer = Unpooled.directBuffer(length);
        for (int i = 0; i < length; i++) {
            buffer.writeByte(value);
        }
        return buffer;
    }

    private FullHttpRequest send(HttpRequest head, int... lengths) {
        channel.writeInbound(head);
        for (int i = 0; i < lengths.length; i++) {
            ByteBuf bytes = piece(lengths[i], i + 1);
            channel.writeInbound(
                    i + 1 < lengths.length ? new DefaultHttpContent(bytes) : new DefaultLastHttpContent(bytes));
            assertEquals("every piece is let go of at once", 0, bytes.refCnt());
        }
        return channel.readInbound();
    }

    @Test
    public void aBodyOfKnownLengthIsOneArrayOfThatLength() {
        HttpRequest head = head();
        head.headers().set(HttpHeaderNames.CONTENT_LENGTH, 5);
        FullHttpRequest request = send(head, 2, 3);
        assertArrayEquals(new byte[] {1, 1, 2, 2, 2}, request.content().array());
        assertEquals("5", request.headers().get(HttpHeaderNames.CONTENT_LENGTH));
        assertNull(channel.readInbound());
    }

    @Test
    public void aBodyOfUnknownLengthGrowsAndIsCutToSize() {
        FullHttpRequest request = send(head(), 20_000, 30_000);
        assertEquals(50_000, request.content().array().length);
        assertEquals(2, request.content().getByte(49_999));
    }

    @Test
    public void aClientThatWaitsToBeAskedIsToldToGoOn() {
        HttpRequest head = head();
        head.headers().set(HttpHeaderNames.EXPECT, "100-continue").set(HttpHeaderNames.CONTENT_LENGTH, 3);
        channel.writeInbound(head);
        HttpResponse goOn = channel.readOutbound();
        assertEquals(100, goOn.status().code());
        channel.writeInbound(new DefaultLastHttpContent(piece(3, 1)));
        assertEquals(3, ((FullHttpRequest) channel.readInbound()).content().readableBytes());
        assertNull(channel.readOutbound());
    }

    @Test
    public void aFormHasNoArrayThatItsPartsWouldShare() {
        HttpRequest head = head();
        head.headers().set(HttpHeaderNames.CONTENT_TYPE, "multipart/form-data; boundary=x");
        FullHttpRequest request = send(head, 3, 20_000);
        assertFalse(request.content().hasArray());
        assertEquals(20_003, request.content().readableBytes());
        request.release();
    }

    @Test
    public void noBodyIsAnEmptyArray() {
        channel.writeInbound(head(), LastHttpContent.EMPTY_LAST_CONTENT);
        FullHttpRequest request = channel.readInbound();
        assertEquals(0, request.content().array().length);
    }

    @Test
    public void whatIsTooLongFailsToDecodeAndHoldsNoMore() {
        FullHttpRequest request = send(head(), MAX, 1);
        assertTrue(request.decoderResult().isFailure());
        assertEquals(MAX, request.content().readableBytes());
    }

    @Test
    public void aBodyThatDidNotDecodeIsPassedOnSo() {
        channel.writeInbound(head(), new DefaultHttpContent(piece(3, 1)));
        DefaultLastHttpContent broken = new DefaultLastHttpContent();
        broken.setDecoderResult(DecoderResult.failure(new NumberFormatException("a chunk's length")));
        channel.writeInbound(broken);
        FullHttpRequest request = channel.readInbound();
        assertTrue(request.decoderResult().isFailure());
    }

    @Test
    public void aHeadThatDidNotDecodeIsPassedOnSo() {
        HttpRequest head = head();
        head.setDecoderResult(DecoderResult.failure(new IllegalArgumentException("bad")));
        channel.writeInbound(head, LastHttpContent.EMPTY_LAST_CONTENT);
        FullHttpRequest request = channel.readInbound();
        assertFalse(request.decoderResult().isSuccess());
    }
}
