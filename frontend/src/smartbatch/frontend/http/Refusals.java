package smartbatch.frontend.http;

import com.google.gson.JsonParseException;
import io.netty.buffer.ByteBuf;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelOutboundHandlerAdapter;
import io.netty.channel.ChannelPromise;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpHeaders;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.nio.charset.StandardCharsets;
import java.util.Objects;
import java.util.function.BiPredicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.pytorch.serve.http.ErrorResponse;
import org.pytorch.serve.util.JsonUtils;

/**
 * TorchServe's own errors of the inference port, in the form of the handler's: status kept, a code for programs.
 *
 * <p>TorchServe also ends the connection after every error. Here it stays open, unless a handler asked for the end: of
 * an answer 503, which a server gives that is about to stop.
 */
public final class Refusals extends ChannelOutboundHandlerAdapter {
    /** How TorchServe's answers begin: the layout of its JSON writer, and the first field of its class. */
    private static final String BEGINS = "{\n  \"code\": ";

    private static final int MAX_BYTES = 64 * 1024;
    private static final Pattern NO_WORKER =
            Pattern.compile("(?s)Model \"([^\"]*)(?:\" Version (.*))?\" has no worker to serve inference.*");

    private final BiPredicate<String, String> hasWorker;
    private int closesToCome;

    /** @param hasWorker whether a model, by name and version (null: the default one), has a worker. */
    public Refusals(BiPredicate<String, String> hasWorker) {
        this.hasWorker = hasWorker;
    }

    @Override
    public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
        if (!(message instanceof FullHttpResponse answer) || answer.status().code() < 400) {
            ctx.write(message, promise);
            return;
        }
        ErrorResponse error = torchServes(answer);
        boolean isHandlersEnd = error == null && answer.status().equals(HttpResponseStatus.SERVICE_UNAVAILABLE);
        HttpHeaders headers = answer.headers();
        if (!isHandlersEnd && headers.contains(HttpHeaderNames.CONNECTION, HttpHeaderValues.CLOSE, true)) {
            headers.remove(HttpHeaderNames.CONNECTION);
            closesToCome++;
        }
        if (error == null) {
            ctx.write(answer, promise);
            return;
        }
        String why = Objects.requireNonNullElse(error.getMessage(), "the server's log says why");
        FullHttpResponse ours = ours(answer.status(), error.getType(), why);
        ours.headers().forEach(header -> headers.set(header.getKey(), header.getValue()));
        ours.headers().set(headers);
        answer.release();
        ctx.write(ours, promise);
    }

    @Override
    public void close(ChannelHandlerContext ctx, ChannelPromise promise) {
        if (closesToCome > 0) {
            closesToCome--;
            promise.trySuccess();
        } else {
            ctx.close(promise);
        }
    }

    /** What TorchServe says; null of an answer that is not its own. */
    private static ErrorResponse torchServes(FullHttpResponse answer) {
        ByteBuf body = answer.content();
        if (body.readableBytes() > MAX_BYTES || !body.toString(StandardCharsets.UTF_8).startsWith(BEGINS)) {
            return null;
        }
        try {
            ErrorResponse error = JsonUtils.GSON.fromJson(body.toString(StandardCharsets.UTF_8), ErrorResponse.class);
            return error.getType() != null && error.getCode() == answer.status().code() ? error : null;
        } catch (JsonParseException e) {
            return null;
        }
    }

    private FullHttpResponse ours(HttpResponseStatus status, String type, String message) {
        Matcher noWorker = NO_WORKER.matcher(message);
        if (noWorker.matches()) {
            return unavailable(noWorker.group(1), noWorker.group(2));
        }
        if (message.equals("Worker died.")) {
            boolean wasKilled = status.equals(HttpResponseStatus.INSUFFICIENT_STORAGE);
            String code = wasKilled ? "worker_out_of_memory" : "worker_died";
            return Answer.error(status, code, "the worker died with the batch that this request was in");
        }
        return switch (type) {
            case "ModelNotFoundException", "ModelVersionNotFoundException" ->
                    Answer.error(status, "unknown_model", message);
            case "InvalidKeyException" -> Answer.error(status, "token_refused", message);
            // A form that cannot be read is its sender's fault, which TorchServe takes for its own.
            case "ErrorDataDecoderException" -> Answer.error(HttpResponseStatus.BAD_REQUEST, "malformed", message);
            default -> Answer.error(status, code(status.code()), message);
        };
    }

    /** TorchServe says the same of a full queue as of a model without workers. */
    private FullHttpResponse unavailable(String model, String version) {
        String named = version == null ? "model " + model : "model " + model + " version " + version;
        if (!hasWorker.test(model, version)) {
            return Answer.error(HttpResponseStatus.SERVICE_UNAVAILABLE, "no_worker", named + " has no worker");
        }
        return Answer.overloaded("the queue of " + named + " is full");
    }

    private static String code(int status) {
        return switch (status) {
            case 400 -> "malformed";
            case 403 -> "forbidden";
            case 404 -> "not_found";
            case 405 -> "method_not_allowed";
            case 408 -> "too_slow";
            case 409 -> "conflict";
            case 413 -> "too_large";
            case 503 -> "unavailable";
            case 507 -> "out_of_memory";
            default -> "internal";
        };
    }
}
