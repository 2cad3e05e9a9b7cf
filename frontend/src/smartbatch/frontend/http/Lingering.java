package smartbatch.frontend.http;

import io.netty.channel.Channel;
import io.netty.channel.ChannelFutureListener;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.channel.socket.ChannelInputShutdownEvent;
import io.netty.channel.socket.DuplexChannel;
import io.netty.handler.ssl.SslHandler;
import io.netty.util.ReferenceCountUtil;
import io.netty.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;

/**
 * How a connection ends after its last answer: the sending side is closed, and what the client still sends is thrown
 * away until it closes too, for a bounded time.
 *
 * <p>Closing both sides at once would make the kernel answer those bytes with a reset, and a reset takes the answer
 * from a client that has not read it yet.
 */
final class Lingering extends ChannelInboundHandlerAdapter {
    private static final long QUIET_S = 5;
    private static final long TOTAL_S = 30;

    private boolean isQuiet;
    private long checksLeft = TOTAL_S / QUIET_S;
    private ScheduledFuture<?> check;

    private Lingering() {}

    /** End it; called on its event loop, when everything is sent. */
    static void end(Channel channel) {
        if (!(channel instanceof DuplexChannel duplex) || duplex.isInputShutdown()) {
            channel.pipeline().firstContext().close();
            return;
        }
        SslHandler ssl = channel.pipeline().get(SslHandler.class);
        channel.pipeline().addFirst("lingering", new Lingering());
        if (ssl != null) {
            ssl.closeOutbound().addListener(notified -> duplex.shutdownOutput());
        } else {
            duplex.shutdownOutput();
        }
        channel.config().setAutoRead(true);
    }

    @Override
    public void handlerAdded(ChannelHandlerContext ctx) {
        check = ctx.executor().scheduleAtFixedRate(() -> check(ctx), QUIET_S, QUIET_S, TimeUnit.SECONDS);
        ctx.channel().closeFuture().addListener((ChannelFutureListener) closed -> check.cancel(false));
    }

    private void check(ChannelHandlerContext ctx) {
        if (isQuiet || --checksLeft == 0) {
            ctx.close();
        }
        isQuiet = true;
    }

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        isQuiet = false;
        ReferenceCountUtil.release(message);
    }

    @Override
    public void userEventTriggered(ChannelHandlerContext ctx, Object event) {
        if (event instanceof ChannelInputShutdownEvent) {
            ctx.close();
        }
    }
}
