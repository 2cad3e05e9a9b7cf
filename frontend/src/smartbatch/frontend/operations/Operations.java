package smartbatch.frontend.operations;

import com.google.gson.JsonObject;
import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.QueryStringDecoder;
import org.pytorch.serve.util.ConnectorType;
import smartbatch.frontend.Frontend;
import smartbatch.frontend.http.Answer;
import smartbatch.frontend.http.EarlyAnswer;

/**
 * What balancers, kubelets, Open Inference clients, browsers and `smartbatch status` ask, by GET or HEAD and without a
 * token.
 */
public final class Operations extends EarlyAnswer {
    private final Frontend frontend;
    private final boolean isInference;
    private final boolean isManagement;

    public Operations(Frontend frontend, ConnectorType type) {
        this.frontend = frontend;
        isInference = type == ConnectorType.ALL || type == ConnectorType.INFERENCE_CONNECTOR;
        isManagement = type == ConnectorType.ALL || type == ConnectorType.MANAGEMENT_CONNECTOR;
    }

    @Override
    protected FullHttpResponse answer(ChannelHandlerContext context, HttpRequest request) {
        if (!request.method().equals(HttpMethod.GET) && !request.method().equals(HttpMethod.HEAD)) {
            return null;
        }
        String path = new QueryStringDecoder(request.uri()).rawPath();
        return switch (path) {
            case "/livez", "/v2/health/live" -> Answer.json(HttpResponseStatus.OK, "{\"live\": true}");
            case "/readyz", "/v2/health/ready" -> new Health(frontend.models(), frontend.drain()::isDraining).ready();
            case "/frontend" -> isManagement ? Answer.json(HttpResponseStatus.OK, description()) : null;
            default -> {
                if (path.equals("/v2") || path.startsWith("/v2/")) {
                    yield new OpenInference(frontend.models(), frontend.version()).answer(path);
                }
                yield isInference ? frontend.pages().answer(path, request.headers()) : null;
            }
        };
    }

    /** Which classes are mended, or why one was left alone, and whether there is a page; TorchServe as it came: 404. */
    private String description() {
        JsonObject classes = new JsonObject();
        frontend.patches().forEach(classes::addProperty);
        JsonObject body = new JsonObject();
        body.addProperty("frontend", "mended");
        body.addProperty("version", frontend.version());
        body.addProperty("page", frontend.pages().hasPage());
        body.add("classes", classes);
        return body.toString();
    }
}
