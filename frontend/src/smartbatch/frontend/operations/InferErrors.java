package smartbatch.frontend.operations;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import io.netty.channel.ChannelDuplexHandler;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelPromise;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpRequest;
import java.nio.charset.StandardCharsets;
import smartbatch.frontend.http.Answer;

/**
 * Errors of whatever lies under /v2 in the form that the Open Inference Protocol has for them, {@code {"error": text}}.
 *
 * <p>It stands outside of the account, which reads the code of an error in our own form.
 */
public final class InferErrors extends ChannelDuplexHandler {
    private static final int MAX_BYTES = 64 * 1024;

    private boolean isOpenInference;

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        if (message instanceof HttpRequest request) {
            isOpenInference = request.uri().startsWith("/v2/");
        }
        ctx.fireChannelRead(message);
    }

    @Override
    public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
        boolean isError =
                isOpenInference && message instanceof FullHttpResponse answer && answer.status().code() >= 400;
        ctx.write(isError ? spelled((FullHttpResponse) message) : message, promise);
    }

    /** The same error with the message of ours as its text; the same answer where it has none. */
    private static FullHttpResponse spelled(FullHttpResponse answer) {
        String text = message(answer);
        if (text == null) {
            return answer;
        }
        JsonObject body = new JsonObject();
        body.addProperty("error", text);
        FullHttpResponse spelled = Answer.json(answer.status(), body.toString());
        answer.headers().remove(HttpHeaderNames.CONTENT_LENGTH).remove(HttpHeaderNames.CONTENT_TYPE);
        spelled.headers().add(answer.headers());
        answer.release();
        return spelled;
    }

    private static String message(FullHttpResponse answer) {
        if (answer.content().readableBytes() > MAX_BYTES) {
            return null;
        }
        try {
            JsonElement body = JsonParser.parseString(answer.content().toString(StandardCharsets.UTF_8));
            JsonElement error = body.isJsonObject() ? body.getAsJsonObject().get("error") : null;
            JsonElement message = error != null && error.isJsonObject() ? error.getAsJsonObject().get("message") : null;
            return message == null || !message.isJsonPrimitive() ? null : message.getAsString();
        } catch (JsonParseException e) {
            return null;
        }
    }
}
