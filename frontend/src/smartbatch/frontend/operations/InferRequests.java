package smartbatch.frontend.operations;

import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.handler.codec.http.HttpRequest;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Requests to infer of the Open Inference Protocol, to one version or the default one: TorchServe's own way to a worker
 * knows no versions there, so they take that of a prediction, and a header tells the worker which protocol they speak.
 */
public final class InferRequests extends ChannelInboundHandlerAdapter {
    /** Also in the handler's contract/headers.py. */
    private static final String PROTOCOL = "X-SmartBatch-Protocol";

    private static final Pattern INFER =
            Pattern.compile("/v2/models/([^/:?#]+)(?:/versions/([^/?#]+))?/infer/?(\\?.*)?");

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        if (message instanceof HttpRequest request && request.uri().startsWith("/v2/")) {
            Matcher asked = INFER.matcher(request.uri()); // still encoded: a name may hold a slash
            if (asked.matches()) {
                String version = asked.group(2) == null ? "" : "/" + asked.group(2);
                String query = asked.group(3) == null ? "" : asked.group(3);
                request.setUri("/predictions/" + asked.group(1) + version + query);
                request.headers().set(PROTOCOL, "v2");
            }
        }
        ctx.fireChannelRead(message);
    }
}
