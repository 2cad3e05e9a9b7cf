package smartbatch.frontend.operations;

import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.QueryStringDecoder;
import org.pytorch.serve.archive.DownloadArchiveException;
import org.pytorch.serve.archive.model.ModelException;
import org.pytorch.serve.archive.workflow.WorkflowException;
import org.pytorch.serve.http.HttpRequestHandlerChain;
import org.pytorch.serve.http.MethodNotAllowedException;
import org.pytorch.serve.util.NettyUtils;
import org.pytorch.serve.wlm.WorkerInitializationException;

/**
 * The management port's {@code POST /drain}, which begins it and returns at once, and {@code GET /drain}, which tells
 * how far it is; {@code POST /drain?queued=refuse} also answers what still waits with a refusal.
 */
public final class DrainRequests extends HttpRequestHandlerChain {
    static final String PATH = "/drain";

    private final Drain drain;

    public DrainRequests(Drain drain) {
        this.drain = drain;
    }

    @Override
    public void handleRequest(
            ChannelHandlerContext ctx, FullHttpRequest request, QueryStringDecoder decoder, String[] segments)
            throws ModelException, DownloadArchiveException, WorkflowException, WorkerInitializationException {
        if (!decoder.path().equals(PATH)) {
            chain.handleRequest(ctx, request, decoder, segments);
            return;
        }
        if (request.method().equals(HttpMethod.POST)) {
            drain.begin();
            if (NettyUtils.getParameter(decoder, "queued", "").equals("refuse")) {
                drain.refuseWaiting();
            }
        } else if (!request.method().equals(HttpMethod.GET)) {
            throw new MethodNotAllowedException();
        }
        NettyUtils.sendJsonResponse(ctx, drain.state());
    }
}
