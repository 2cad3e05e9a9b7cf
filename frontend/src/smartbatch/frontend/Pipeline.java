package smartbatch.frontend;

import io.netty.channel.AdaptiveRecvByteBufAllocator;
import io.netty.channel.Channel;
import io.netty.channel.ChannelPipeline;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.ssl.SslContext;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.pytorch.serve.http.ExtendedSSLHandler;
import org.pytorch.serve.http.HttpRequestHandler;
import org.pytorch.serve.http.HttpRequestHandlerChain;
import org.pytorch.serve.http.InvalidRequestHandler;
import org.pytorch.serve.http.TokenAuthorizationHandler;
import org.pytorch.serve.http.api.rest.ApiDescriptionRequestHandler;
import org.pytorch.serve.http.api.rest.InferenceRequestHandler;
import org.pytorch.serve.http.api.rest.ManagementRequestHandler;
import org.pytorch.serve.http.api.rest.OpenInferenceProtocolRequestHandler;
import org.pytorch.serve.servingsdk.impl.PluginsManager;
import org.pytorch.serve.util.ConfigManager;
import org.pytorch.serve.util.ConnectorType;
import org.pytorch.serve.util.TokenAuthorization;
import org.pytorch.serve.util.TokenAuthorization.TokenType;
import org.pytorch.serve.workflow.api.http.WorkflowInferenceRequestHandler;
import org.pytorch.serve.workflow.api.http.WorkflowMgmtRequestHandler;
import smartbatch.frontend.access.Owner;
import smartbatch.frontend.account.Account;
import smartbatch.frontend.account.Exposition;
import smartbatch.frontend.http.Aggregator;
import smartbatch.frontend.http.Arrival;
import smartbatch.frontend.http.Budget;
import smartbatch.frontend.http.Forms;
import smartbatch.frontend.http.Ordering;
import smartbatch.frontend.http.Patience;
import smartbatch.frontend.http.Refusals;
import smartbatch.frontend.models.BatchBounds;
import smartbatch.frontend.operations.DrainHandler;
import smartbatch.frontend.operations.DrainRequests;
import smartbatch.frontend.operations.InferErrors;
import smartbatch.frontend.operations.InferRequests;
import smartbatch.frontend.operations.Operations;
import smartbatch.frontend.operations.Pages;

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
    // Netty's own limits.
    private static final int MAX_LINE_BYTES = 4096;
    private static final int MAX_HEADER_BYTES = 8192;
    /** Most that is read, and passed on, at once; TorchServe reads 4 KiB at a time. */
    private static final int PIECE_BYTES = 1024 * 1024;
    private static final int FIRST_READ_BYTES = 4096;

    private Pipeline() {}

    /** Fill the pipeline of a connection that has just been accepted on a port of this type. */
    public static void fill(Channel channel, SslContext ssl, ConnectorType type) {
        ConfigManager config = ConfigManager.getInstance();
        Frontend frontend = Frontend.get();
        boolean all = type == ConnectorType.ALL;
        boolean isInference = all || type == ConnectorType.INFERENCE_CONNECTOR;
        ChannelPipeline pipeline = channel.pipeline();
        if (ssl != null) {
            pipeline.addLast("ssl", new ExtendedSSLHandler(ssl, type));
        }
        channel.config().setRecvByteBufAllocator(new AdaptiveRecvByteBufAllocator(64, FIRST_READ_BYTES, PIECE_BYTES));
        pipeline.addLast("http", new HttpServerCodec(MAX_LINE_BYTES, MAX_HEADER_BYTES, PIECE_BYTES));
        pipeline.addLast("patience", new Patience(frontend.clientTimeoutS(), TimeUnit.SECONDS));
        pipeline.addLast("ordering", new Ordering());
        if (isInference) {
            pipeline.addLast("infer errors", new InferErrors());
            pipeline.addLast("account", new Account(frontend.ledger()));
            pipeline.addLast("infer requests", new InferRequests());
            pipeline.addLast("batch bounds", new BatchBounds());
            pipeline.addLast("drain", new DrainHandler(frontend.drain()));
            pipeline.addLast("arrival", new Arrival(sequenceHeaders(config)));
            pipeline.addLast("budget", new Budget(frontend.bytes(), config.getMaxRequestSize()));
        }
        if (all || type == ConnectorType.MANAGEMENT_CONNECTOR) {
            pipeline.addLast("owner", new Owner(frontend.rules(), TokenAuthorization.isEnabled()));
        }
        pipeline.addLast("operations", new Operations(frontend, type));
        pipeline.addLast("aggregator", new Aggregator(config.getMaxRequestSize()));
        if (isInference) {
            pipeline.addLast("forms", new Forms());
        }
        if (type == ConnectorType.INFERENCE_CONNECTOR) {
            pipeline.addLast("refusals", new Refusals(frontend.models()::hasWorker));
        }
        pipeline.addLast("handler", new HttpRequestHandler(chain(config, type)));
    }

    private static List<String> sequenceHeaders(ConfigManager config) {
        return List.of(
                config.getTsHeaderKeySequenceId(),
                config.getTsHeaderKeySequenceStart(),
                config.getTsHeaderKeySequenceEnd());
    }

    /** TorchServe's own handlers in the order in which its ServerInitializer has them, and ours behind its tokens. */
    private static HttpRequestHandlerChain chain(ConfigManager config, ConnectorType type) {
        boolean all = type == ConnectorType.ALL;
        HttpRequestHandlerChain first = new ApiDescriptionRequestHandler(type);
        HttpRequestHandlerChain last = first;
        if (all || type == ConnectorType.INFERENCE_CONNECTOR) {
            last = last.setNextHandler(new TokenAuthorizationHandler(TokenType.INFERENCE));
            if (config.isMetricApiEnable() && Frontend.get().pages().hasPage()) {
                last = last.setNextHandler(new Exposition(Frontend.get().ledger(), Pages.METRICS));
            }
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
            last = last.setNextHandler(new Exposition(Frontend.get().ledger(), "/metrics"));
        }
        last.setNextHandler(new InvalidRequestHandler());
        return first;
    }
}
