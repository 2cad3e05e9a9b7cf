package smartbatch.frontend.operations;

import io.netty.channel.ChannelDuplexHandler;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelPromise;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponse;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpUtil;
import io.netty.handler.codec.http.LastHttpContent;
import io.netty.util.ReferenceCountUtil;
import java.util.concurrent.TimeUnit;
import smartbatch.frontend.http.Answer;

/**
 * One connection's part in a drain: where it stands with its request, and its end.
 *
 * <p>A newcomer is refused once his request is there in full, since most clients read no answer before.
 */
public final class DrainHandler extends ChannelDuplexHandler {
    /** Longer than a client that has its answer needs to send its next request, on a machine that is busy. */
    private static final long SILENCE_NANOS = TimeUnit.MILLISECONDS.toNanos(500);

    /** Where a connection stands. */
    enum Phase {
        IDLE,
        RECEIVING,
        ANSWERING
    }

    volatile Phase phase = Phase.IDLE;
    /** When it last carried anything, by {@link System#nanoTime}. */
    volatile long lastNanos = System.nanoTime();

    private final Drain drain;
    private ChannelHandlerContext context;
    private boolean isRefusing;
    /** Whether the answer that is being written says that it is the connection's last. */
    private boolean isLast;
    private int numUnsent;

    public DrainHandler(Drain drain) {
        this.drain = drain;
    }

    /** End the connection once nothing is owed on it and its client has been silent for a moment from now on. */
    void closeWhenSilent() {
        context.executor().schedule(this::closeIfSilent, SILENCE_NANOS, TimeUnit.NANOSECONDS);
    }

    private void closeIfSilent() {
        if (phase == Phase.IDLE && numUnsent == 0 && System.nanoTime() - lastNanos >= SILENCE_NANOS) {
            context.close();
        } else if (context.channel().isActive()) {
            closeWhenSilent();
        }
    }

    @Override
    public void handlerAdded(ChannelHandlerContext ctx) {
        context = ctx;
        drain.connections.add(this);
        if (drain.isDraining()) { // accepted while the port was being closed
            closeWhenSilent();
        }
    }

    @Override
    public void handlerRemoved(ChannelHandlerContext ctx) {
        drain.connections.remove(this);
    }

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        lastNanos = System.nanoTime();
        boolean isWhole = message instanceof LastHttpContent;
        if (message instanceof HttpRequest) {
            HttpRequest request = (HttpRequest) message;
            phase = Phase.RECEIVING;
            isRefusing = drain.isDraining() && !request.uri().startsWith(DrainRequests.PATH);
            isWhole |= isRefusing && HttpUtil.is100ContinueExpected(request);
        }
        boolean isNowWhole = isWhole && phase == Phase.RECEIVING;
        if (isNowWhole) {
            phase = Phase.ANSWERING;
        }
        if (!isRefusing) {
            ctx.fireChannelRead(message);
            return;
        }
        ReferenceCountUtil.release(message);
        if (isNowWhole) {
            FullHttpResponse refusal = Answer.error(HttpResponseStatus.SERVICE_UNAVAILABLE, Drain.CODE, Drain.MESSAGE);
            refusal.headers().set(HttpHeaderNames.RETRY_AFTER, 1);
            write(ctx, refusal, ctx.newPromise());
            ctx.flush();
        }
    }

    @Override
    public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
        boolean isHead = message instanceof HttpResponse;
        boolean isInterim = isHead && ((HttpResponse) message).status().code() < 200;
        if (isHead && !isInterim) {
            isLast = drain.isDraining();
            if (isLast) {
                ((HttpResponse) message).headers().set(HttpHeaderNames.CONNECTION, HttpHeaderValues.CLOSE);
            }
        }
        if (message instanceof LastHttpContent && !isInterim) {
            phase = Phase.IDLE; // now: the client's next request may be let in before all of this is sent
            numUnsent++;
            boolean isLast = this.isLast;
            promise = promise.unvoid().addListener(done -> sent(isLast));
        }
        ctx.write(message, promise);
    }

    /** A client that was not told so may be sending its next request: that is refused, not cut off. */
    private void sent(boolean isLast) {
        lastNanos = System.nanoTime();
        numUnsent--;
        if (isLast) {
            context.close();
        }
    }
}
