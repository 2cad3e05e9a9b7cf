package smartbatch.frontend.http;

import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.handler.codec.DecoderResult;
import io.netty.handler.codec.TooLongFrameException;
import io.netty.handler.codec.http.DefaultFullHttpRequest;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.EmptyHttpHeaders;
import io.netty.handler.codec.http.HttpContent;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpUtil;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.LastHttpContent;
import io.netty.handler.codec.http.multipart.HttpPostRequestDecoder;
import io.netty.util.ReferenceCountUtil;

/**
 * Gathers a request's body in one array of exactly its length, which TorchServe then takes as it is.
 *
 * <p>Netty's own keeps every piece until the last, in buffers outside the heap, and TorchServe copies them together
 * after that: twice the memory, and a copy more. Bodies of unknown length grow as they come.
 */
public final class Aggregator extends ChannelInboundHandlerAdapter {
    private static final int FIRST_GUESS_BYTES = 16 * 1024;

    private final int maxBytes;
    private DefaultFullHttpRequest request;

    /** @param maxBytes of a body; what is longer is passed on as a request that failed to decode. */
    public Aggregator(int maxBytes) {
        this.maxBytes = maxBytes;
    }

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        try {
            if (message instanceof HttpRequest) {
                begin((HttpRequest) message);
                if (HttpUtil.is100ContinueExpected((HttpRequest) message)) { // nobody further out has refused it
                    ctx.writeAndFlush(new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.CONTINUE));
                }
            }
            if (message instanceof HttpContent && request != null) {
                add(ctx, (HttpContent) message);
            }
        } finally {
            ReferenceCountUtil.release(message);
        }
    }

    private void begin(HttpRequest head) {
        long length = HttpUtil.getContentLength(head, -1L);
        int size = (int) Math.min(length, maxBytes);
        size = length >= 0 ? size : FIRST_GUESS_BYTES;
        // TorchServe takes each part of a form from its array too, if it has one: that of the whole form.
        boolean isForm = HttpPostRequestDecoder.isMultipart(head);
        ByteBuf body = isForm ? Unpooled.directBuffer(size, maxBytes) : Unpooled.buffer(size, maxBytes);
        request = new DefaultFullHttpRequest(head.protocolVersion(), head.method(), head.uri(), body, head.headers(),
                EmptyHttpHeaders.INSTANCE);
        request.setDecoderResult(head.decoderResult());
    }

    private void add(ChannelHandlerContext ctx, HttpContent piece) {
        ByteBuf body = request.content();
        if (piece.decoderResult().isFailure()) { // as a chunk's length that is no number: the body ends here
            request.setDecoderResult(piece.decoderResult());
        } else if (piece.content().readableBytes() > maxBytes - body.readableBytes()) {
            request.setDecoderResult(DecoderResult.failure(new TooLongFrameException("over " + maxBytes + " bytes")));
        } else {
            body.writeBytes(piece.content());
        }
        if (piece instanceof LastHttpContent) {
            DefaultFullHttpRequest whole = request;
            request = null;
            // TorchServe takes a heap buffer's array as the body, whatever part of it is filled.
            ctx.fireChannelRead(exact(whole));
        }
    }

    @Override
    public void handlerRemoved(ChannelHandlerContext ctx) {
        if (request != null) {
            request.release();
            request = null;
        }
    }

    private static DefaultFullHttpRequest exact(DefaultFullHttpRequest request) {
        ByteBuf body = request.content();
        if (!body.hasArray() || body.array().length == body.readableBytes()) {
            return request;
        }
        byte[] filled = new byte[body.readableBytes()];
        body.readBytes(filled);
        return (DefaultFullHttpRequest) request.replace(Unpooled.wrappedBuffer(filled));
    }
}
