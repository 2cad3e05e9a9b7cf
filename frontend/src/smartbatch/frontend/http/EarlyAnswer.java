package smartbatch.frontend.http;

import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.LastHttpContent;
import io.netty.util.ReferenceCountUtil;

/**
 * Answers some requests by their head alone and passes the others on; a body that comes with one it answers is thrown
 * away as it arrives, so that the connection can go on.
 */
public abstract class EarlyAnswer extends ChannelInboundHandlerAdapter {
    private FullHttpResponse answer;

    /** The answer to a request, or null for one that is not for this handler; called once, on the event loop. */
    protected abstract FullHttpResponse answer(ChannelHandlerContext context, HttpRequest request);

    @Override
    public final void channelRead(ChannelHandlerContext context, Object message) {
        if (message instanceof HttpRequest) {
            answer = answer(context, (HttpRequest) message);
        }
        if (answer == null) {
            context.fireChannelRead(message);
            return;
        }
        ReferenceCountUtil.release(message);
        if (message instanceof LastHttpContent) {
            context.writeAndFlush(answer);
            answer = null;
        }
    }
}
