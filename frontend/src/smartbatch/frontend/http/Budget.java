package smartbatch.frontend.http;

import io.netty.channel.ChannelDuplexHandler;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelPromise;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpContent;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpUtil;
import io.netty.util.AttributeKey;
import io.netty.util.ReferenceCountUtil;
import java.util.concurrent.TimeUnit;

/**
 * Lets a request in if its body fits: into max_request_size, and among the bodies that are there already. What does not
 * fit is refused by its Content-Length, before any of it is read; a chunked body when its pieces become too many.
 *
 * <p>A body counts until its answer is sent. Where the client is gone before that, TorchServe keeps the body all the
 * same until a worker has had it, so it counts until then.
 */
public final class Budget extends ChannelDuplexHandler {
    /** Where TorchServe notes the request that a connection awaits an answer to; it takes the note away with it. */
    private static final AttributeKey<Object> SESSION = AttributeKey.valueOf("session");

    private final BytesInFlight all;
    private final long maxBody;
    private boolean isRefused;
    private boolean isChunked;
    private long held;

    /** @param maxBody bytes, as TorchServe's max_request_size. */
    public Budget(BytesInFlight all, long maxBody) {
        this.all = all;
        this.maxBody = Math.min(maxBody, all.most());
    }

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        FullHttpResponse refusal = null;
        if (message instanceof HttpRequest head) {
            isRefused = false;
            isChunked = HttpUtil.isTransferEncodingChunked(head);
            refusal = Forms.refusal(head);
            if (refusal == null && !isChunked && head.decoderResult().isSuccess()) {
                refusal = take(HttpUtil.getContentLength(head, 0L));
            }
        } else if (isChunked && !isRefused && message instanceof HttpContent piece) {
            refusal = take(piece.content().readableBytes());
        }
        if (refusal != null) {
            refuse(ctx, refusal);
        }
        if (isRefused) {
            ReferenceCountUtil.release(message);
        } else {
            ctx.fireChannelRead(message);
        }
    }

    /** Take room for a body, or for a piece of it; the answer to one that has none, else null. */
    private FullHttpResponse take(long bytes) {
        if (bytes < 0) {
            return Answer.error(HttpResponseStatus.BAD_REQUEST, "malformed", "Content-Length is below 0");
        }
        if (held + bytes > maxBody) {
            String message = "a body may have " + maxBody + " bytes at most";
            return Answer.error(HttpResponseStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", message);
        }
        if (bytes > 0 && !all.take(bytes, held)) {
            return Answer.overloaded("the bodies of all requests are as many bytes as fit");
        }
        held += bytes;
        return null;
    }

    /** Throw away what has come of a request and what will; it is the connection's last. */
    private void refuse(ChannelHandlerContext ctx, FullHttpResponse refusal) {
        isRefused = true;
        if (ctx.pipeline().get("aggregator") != null) {
            ctx.pipeline().remove("aggregator"); // with what it holds of the body
        }
        giveBack();
        refusal.headers().set(HttpHeaderNames.CONNECTION, HttpHeaderValues.CLOSE);
        ctx.writeAndFlush(refusal);
    }

    private void giveBack() {
        all.giveBack(held);
        held = 0;
    }

    @Override
    public void userEventTriggered(ChannelHandlerContext ctx, Object event) {
        if (event == Patience.BODY_IS_LATE && !isRefused) {
            refuse(ctx, Patience.late("the rest of the body"));
        }
        ctx.fireUserEventTriggered(event);
    }

    @Override
    public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
        ctx.write(message, Answer.isLast(message) ? promise.unvoid().addListener(sent -> giveBack()) : promise);
    }

    @Override
    public void channelInactive(ChannelHandlerContext ctx) {
        giveBackWhenAnswered(ctx);
        ctx.fireChannelInactive();
    }

    private void giveBackWhenAnswered(ChannelHandlerContext ctx) {
        if (held == 0 || ctx.channel().attr(SESSION).get() == null) {
            giveBack();
        } else {
            ctx.executor().schedule(() -> giveBackWhenAnswered(ctx), 1, TimeUnit.SECONDS);
        }
    }
}
