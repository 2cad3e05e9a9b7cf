package smartbatch.frontend;

import io.netty.channel.Channel;
import io.netty.channel.ChannelOption;
import io.netty.channel.ChannelPipeline;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.ssl.SslContext;
import org.pytorch.serve.http.ExtendedSSLHandler;
import org.pytorch.serve.http.HttpRequestHandler;
import org.pytorch.serve.http.HttpRequestHandlerChain;
import org.pytorch.serve.http.InvalidRequestHandler;
import org.pytorch.serve.http.TokenAuthorizationHandler;
import org.pytorch.serve.http.api.rest.ApiDescriptionRequestHandler;
import org.pytorch.serve.http.api.rest.InferenceRequestHandler;
import org.pytorch.serve.http.api.rest.ManagementRequestHandler;
import org.pytorch.serve.http.api.rest.OpenInferenceProtocolRequestHandler;
import org.pytorch.serve.http.api.rest.PrometheusMetricsRequestHandler;
import org.pytorch.serve.servingsdk.impl.PluginsManager;
import org.pytorch.serve.util.ConfigManager;
import org.pytorch.serve.util.ConnectorType;
import org.pytorch.serve.util.TokenAuthorization.TokenType;
import org.pytorch.serve.workflow.api.http.WorkflowInferenceRequestHandler;
import org.pytorch.serve.workflow.api.http.WorkflowMgmtRequestHandler;
import smartbatch.frontend.operations.DrainHandler;
import smartbatch.frontend.operations.DrainRequests;

/**
 * What one connection's bytes pass: ours outside, TorchServe's own chain of handlers inside.
 *
 * <pre>
 * bytes → ssl → http → [ours, before a body is read] → aggregator → [ours, whole requests] → TorchServe's chain
 * </pre>
 *
 * Answers go the same way back, so an outer handler sees every answer, whoever gave it.
 */
public final class Pipeline {
    private Pipeline() {}

    /** Fill the pipeline of a connection that has just been accepted on a port of this type. */
    public static void fill(Channel channel, SslContext ssl, ConnectorType type) {
        ConfigManager config = ConfigManager.getInstance();
        // TorchServe's 0 ends each connection by a reset, which takes what is still on its way to the client.
        channel.config().setOption(ChannelOption.SO_LINGER, -1);
        ChannelPipeline pipeline = channel.pipeline();
        if (ssl != null) {
            pipeline.addLast("ssl", new ExtendedSSLHandler(ssl, type));
        }
        pipeline.addLast("http", new HttpServerCodec());
        if (type == ConnectorType.INFERENCE_CONNECTOR || type == ConnectorType.ALL) {
            pipeline.addLast("drain", new DrainHandler(Frontend.get().drain()));
        }
        pipeline.addLast("aggregator", new HttpObjectAggregator(config.getMaxRequestSize()));
        pipeline.addLast("handler", new HttpRequestHandler(chain(config, type)));
    }

    /** TorchServe's own handlers in the order in which its ServerInitializer has them, and ours behind its tokens. */
    private static HttpRequestHandlerChain chain(ConfigManager config, ConnectorType type) {
        boolean all = type == ConnectorType.ALL;
        HttpRequestHandlerChain first = new ApiDescriptionRequestHandler(type);
        HttpRequestHandlerChain last = first;
        if (all || type == ConnectorType.INFERENCE_CONNECTOR) {
            last = last.setNextHandler(new TokenAuthorizationHandler(TokenType.INFERENCE));
            last = last.setNextHandler(new InferenceRequestHandler(PluginsManager.getInstance().getInferenceEndpoints()));
            last = last.setNextHandler(new WorkflowInferenceRequestHandler());
            if (config.isOpenInferenceProtocol()) {
                last = last.setNextHandler(new OpenInferenceProtocolRequestHandler());
            }
        }
        if (all || type == ConnectorType.MANAGEMENT_CONNECTOR) {
            last = last.setNextHandler(new TokenAuthorizationHandler(TokenType.MANAGEMENT));
            last = last.setNextHandler(new DrainRequests(Frontend.get().drain()));
            last = last.setNextHandler(new ManagementRequestHandler(PluginsManager.getInstance().getManagementEndpoints()));
            last = last.setNextHandler(new WorkflowMgmtRequestHandler());
        }
        if (config.isMetricApiEnable() && (all || type == ConnectorType.METRICS_CONNECTOR)) {
            last = last.setNextHandler(new PrometheusMetricsRequestHandler());
        }
        last.setNextHandler(new InvalidRequestHandler());
        return first;
    }
}
