package smartbatch.frontend.http;

import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.handler.codec.http.HttpHeaders;
import io.netty.handler.codec.http.HttpRequest;
import java.util.Collection;
import java.util.List;

/**
 * What a request has from its client and what from us: headers by which TorchServe's frontend tells a worker what to do
 * are taken away, and {@code X-Request-Start} says when it arrived, unless a proxy or the client said so.
 */
public final class Arrival extends ChannelInboundHandlerAdapter {
    /** Set by TorchServe's REST handlers, read by its worker or by handlers, whatever their case. */
    private static final List<String> TORCHSERVES = List.of("describe", "explain", "url_path", "ts_stream_next");

    private static final String START = "X-Request-Start";

    private final Collection<String> configured;

    /** @param configured further names that only TorchServe may set. */
    public Arrival(Collection<String> configured) {
        this.configured = configured;
    }

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        if (message instanceof HttpRequest request) {
            HttpHeaders headers = request.headers();
            TORCHSERVES.forEach(headers::remove);
            configured.forEach(headers::remove);
            if (!headers.contains(START)) {
                long now = System.currentTimeMillis();
                headers.set(START, "t=" + now / 1000 + '.' + String.valueOf(1000 + now % 1000).substring(1));
            }
        }
        ctx.fireChannelRead(message);
    }
}
