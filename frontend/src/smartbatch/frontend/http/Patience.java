package smartbatch.frontend.http;

import io.netty.channel.ChannelDuplexHandler;
import io.netty.channel.ChannelFutureListener;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelOutboundBuffer;
import io.netty.channel.ChannelPromise;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.LastHttpContent;
import io.netty.handler.ssl.SslHandshakeCompletionEvent;
import io.netty.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/**
 * How long a client may take: for a whole head, between two pieces of a body, to read on in its answer, and ten times
 * that between requests. Where it is the client that waits, nothing is bounded.
 *
 * <p>One timer a connection, which looks at the clock only when the time could be up.
 */
public final class Patience extends ChannelDuplexHandler {
    /** Tells the inside that no more of the body is waited for. */
    static final Object BODY_IS_LATE = new Object();

    private static final int IDLE_FACTOR = 10;

    private final long timeoutNanos;
    private long since = System.nanoTime();
    private int unanswered;
    private boolean isReading; // a request's head has come, its last piece has not
    private boolean isLate; // and the inside knows
    private boolean isHeadBegun;
    private boolean sawMessage;
    private long lastUnsent;
    private Future<?> timer;

    /** @param timeout for what the client has begun. */
    public Patience(long timeout, TimeUnit unit) {
        timeoutNanos = unit.toNanos(timeout);
    }

    @Override
    public void handlerAdded(ChannelHandlerContext ctx) {
        schedule(ctx, timeoutNanos);
        ctx.channel().closeFuture().addListener((ChannelFutureListener) closed -> timer.cancel(false));
    }

    private void schedule(ChannelHandlerContext ctx, long nanos) {
        timer = ctx.executor().schedule(() -> check(ctx), nanos, TimeUnit.NANOSECONDS);
    }

    private void check(ChannelHandlerContext ctx) {
        boolean isAwaited = unanswered > (isReading ? 1 : 0);
        boolean isIdle = !isAwaited && !isReading && !isHeadBegun;
        long left = (isIdle ? IDLE_FACTOR : 1) * timeoutNanos - (System.nanoTime() - since);
        if (isAwaited ? !isStuck(ctx) : left > 0) {
            schedule(ctx, isAwaited ? timeoutNanos : left);
        } else if (isReading && !isAwaited && !isLate) {
            isLate = true;
            schedule(ctx, timeoutNanos); // in case that nobody inside ends it
            ctx.fireUserEventTriggered(BODY_IS_LATE);
        } else if (isHeadBegun) {
            ctx.writeAndFlush(late("the head of a request")).addListener(sent -> Lingering.end(ctx.channel()));
        } else {
            ctx.close();
        }
    }

    /** Whether a part of an answer waits of which nothing went out since the last look. */
    private boolean isStuck(ChannelHandlerContext ctx) {
        ChannelOutboundBuffer buffer = ctx.channel().unsafe().outboundBuffer();
        long unsent = buffer == null ? 0 : buffer.totalPendingWriteBytes() - buffer.currentProgress();
        boolean isStuck = unsent > 0 && unsent == lastUnsent;
        lastUnsent = unsent;
        return isStuck;
    }

    /** What a client is told that did not send something in time. */
    static FullHttpResponse late(String what) {
        String message = what + " did not come in time";
        FullHttpResponse answer = Answer.error(HttpResponseStatus.REQUEST_TIMEOUT, "too_slow", message);
        answer.headers().set(HttpHeaderNames.CONNECTION, HttpHeaderValues.CLOSE);
        return answer;
    }

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        sawMessage = true;
        isHeadBegun = false;
        since = System.nanoTime();
        if (message instanceof HttpRequest) {
            unanswered++;
            isReading = true;
        }
        isReading &= !(message instanceof LastHttpContent);
        ctx.fireChannelRead(message);
    }

    @Override
    public void channelReadComplete(ChannelHandlerContext ctx) {
        if (!sawMessage && !isHeadBegun && !isReading && unanswered == 0) {
            isHeadBegun = true; // bytes came that are no message yet
            since = System.nanoTime();
            timer.cancel(false);
            schedule(ctx, timeoutNanos);
        }
        sawMessage = false;
        ctx.fireChannelReadComplete();
    }

    @Override
    public void userEventTriggered(ChannelHandlerContext ctx, Object event) {
        if (event instanceof SslHandshakeCompletionEvent) {
            isHeadBegun = false; // those bytes were the handshake's
            sawMessage = true;
            since = System.nanoTime();
        }
        ctx.fireUserEventTriggered(event);
    }

    @Override
    public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
        ctx.write(message, Answer.isLast(message) ? promise.unvoid().addListener(sent -> answered()) : promise);
    }

    private void answered() {
        unanswered--;
        since = System.nanoTime();
    }
}
