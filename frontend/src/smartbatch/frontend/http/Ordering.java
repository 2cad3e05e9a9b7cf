package smartbatch.frontend.http;

import io.netty.channel.ChannelDuplexHandler;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelOption;
import io.netty.channel.ChannelPromise;
import io.netty.channel.socket.ChannelInputShutdownEvent;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpHeaders;
import io.netty.handler.codec.http.HttpObject;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponse;
import io.netty.handler.codec.http.HttpUtil;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.LastHttpContent;
import io.netty.util.ReferenceCountUtil;
import java.util.ArrayDeque;
import java.util.Queue;

/**
 * Lets one request at a time inward, and gives each exactly one answer, in the order of the requests.
 *
 * <p>What follows a request that is not answered yet waits here, and the socket is not read meanwhile. When an answer
 * is written, the connection stays open if the client asked for that (HTTP/1.1 by default, HTTP/1.0 in so many words),
 * the request was read to its end, and the answer does not say {@code Connection: close}; else {@link Lingering} ends
 * it. A client may close its sending side and still gets its answers. The answer's Connection header is set here.
 */
public final class Ordering extends ChannelDuplexHandler {
    private final Queue<Object> waiting = new ArrayDeque<>();
    private boolean isPassing;
    /** A request is inside: from its head until its answer is written. */
    private boolean isBusy;

    private boolean isOld; // the request's HTTP is 1.0
    private boolean isWhole; // its last piece was read
    private boolean isKept;
    private boolean isAnswering; // the answer's head was written
    private boolean isAnswered; // and its last piece, but maybe not sent
    private boolean isInputEnded;
    private boolean isEnding;

    @Override
    public void handlerAdded(ChannelHandlerContext ctx) {
        ctx.channel().config().setOption(ChannelOption.ALLOW_HALF_CLOSURE, true);
        // TorchServe sets 0, by which closing throws away what is not sent yet.
        ctx.channel().config().setOption(ChannelOption.SO_LINGER, -1);
    }

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        if (isEnding) {
            ReferenceCountUtil.release(message);
            return;
        }
        waiting.add(message);
        pass(ctx);
    }

    private void pass(ChannelHandlerContext ctx) {
        if (isPassing) {
            return; // an answer given at once; the loop below goes on
        }
        isPassing = true;
        while (!waiting.isEmpty() && !isEnding && !(isBusy && isWhole)) {
            Object next = waiting.poll();
            if (next instanceof HttpRequest request) {
                isBusy = true;
                isWhole = isAnswering = isAnswered = false;
                isOld = request.protocolVersion().compareTo(HttpVersion.HTTP_1_1) < 0;
                isKept = HttpUtil.isKeepAlive(request);
            }
            isWhole |= next instanceof LastHttpContent;
            isKept &= ((HttpObject) next).decoderResult().isSuccess(); // nobody knows where the next would begin
            ctx.fireChannelRead(next);
        }
        isPassing = false;
        if (isEnding) {
            return;
        }
        ctx.channel().config().setAutoRead(waiting.isEmpty());
        if (isInputEnded && waiting.isEmpty() && !(isBusy && (isWhole || isAnswered))) {
            ctx.close(); // nothing is left to answer
        }
    }

    @Override
    public void userEventTriggered(ChannelHandlerContext ctx, Object event) {
        if (event instanceof ChannelInputShutdownEvent && !isEnding) {
            isInputEnded = true;
            pass(ctx);
        }
        ctx.fireUserEventTriggered(event);
    }

    @Override
    public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
        if (Answer.isInterim(message)) {
            ctx.write(message, promise);
            return;
        }
        HttpResponse head = message instanceof HttpResponse response ? response : null;
        if (!isBusy || isAnswered || (head != null) == isAnswering) {
            ReferenceCountUtil.release(message);
            promise.tryFailure(new IllegalStateException("no request awaits this answer"));
            return;
        }
        if (head != null) {
            isAnswering = true;
            prepare(head);
        }
        if (message instanceof LastHttpContent) {
            isAnswered = true;
            ctx.write(message, promise.unvoid().addListener(sent -> finish(ctx)));
        } else {
            ctx.write(message, promise);
        }
    }

    private void prepare(HttpResponse head) {
        HttpHeaders headers = head.headers();
        if (isOld && !(head instanceof FullHttpResponse)) {
            headers.remove(HttpHeaderNames.TRANSFER_ENCODING); // HTTP/1.0: the end of the connection ends it
            isKept = false;
        }
        isKept &= isWhole && !(isInputEnded && waiting.isEmpty());
        isKept &= !headers.containsValue(HttpHeaderNames.CONNECTION, HttpHeaderValues.CLOSE, true);
        headers.set(HttpHeaderNames.CONNECTION, isKept ? HttpHeaderValues.KEEP_ALIVE : HttpHeaderValues.CLOSE);
    }

    private void finish(ChannelHandlerContext ctx) {
        isBusy = false;
        if (isKept) {
            pass(ctx);
        } else {
            isEnding = true;
            releaseWaiting();
            Lingering.end(ctx.channel());
        }
    }

    @Override
    public void close(ChannelHandlerContext ctx, ChannelPromise promise) {
        if (isEnding || (isAnswered && isBusy && !isKept)) {
            // TorchServe closes after errors, but that would cut off an answer whose client is still sending.
            ctx.channel().closeFuture().addListener(closed -> promise.trySuccess());
        } else {
            ctx.close(promise);
        }
    }

    @Override
    public void handlerRemoved(ChannelHandlerContext ctx) {
        releaseWaiting();
    }

    private void releaseWaiting() {
        waiting.forEach(ReferenceCountUtil::release);
        waiting.clear();
    }
}
