package smartbatch.frontend.http;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.nio.charset.StandardCharsets;
import org.junit.Test;
import org.pytorch.serve.http.ErrorResponse;
import org.pytorch.serve.util.ApiUtils;
import org.pytorch.serve.util.JsonUtils;

public class RefusalsTest {
    private final EmbeddedChannel channel = new EmbeddedChannel(new Refusals((model, version) -> model.equals("busy")));

    private FullHttpResponse send(int status, String json) {
        FullHttpResponse answer = Answer.json(HttpResponseStatus.valueOf(status), json);
        answer.headers().set("connection", "close").set("x-request-id", "id");
        channel.writeOutbound(answer);
        return channel.readOutbound();
    }

    /** What TorchServe's error becomes. */
    private String sent(int status, String type, String message) {
        String json = JsonUtils.GSON_PRETTY.toJson(new ErrorResponse(status, type, message)) + "\n";
        FullHttpResponse answer = send(status, json);
        assertEquals("id", answer.headers().get("x-request-id"));
        assertNull(answer.headers().get("connection"));
        assertEquals(answer.content().readableBytes(), (int) answer.headers().getInt("content-length"));
        String retry = answer.headers().contains("retry-after") ? ", retry" : "";
        return answer.status().code() + " " + answer.content().toString(StandardCharsets.UTF_8).split("\"")[5] + retry;
    }

    private static String noWorker(String model, String version) {
        return ApiUtils.getStreamingInferenceErrorResponseMessage(model, version);
    }

    @Test
    public void everyErrorHasItsCode() {
        assertEquals("503 overloaded, retry", sent(503, "ServiceUnavailableException", noWorker("busy", null)));
        assertEquals("503 overloaded, retry", sent(503, "ServiceUnavailableException", noWorker("busy", "1.0")));
        assertEquals("503 no_worker", sent(503, "ServiceUnavailableException", noWorker("lazy", "2")));
        assertEquals("500 worker_died", sent(500, "InternalServerException", "Worker died."));
        assertEquals("507 worker_out_of_memory", sent(507, "InternalServerException", "Worker died."));
        assertEquals("404 unknown_model", sent(404, "ModelNotFoundException", "Model not found: x"));
        assertEquals("404 unknown_model", sent(404, "ModelVersionNotFoundException", "x"));
        assertEquals("404 not_found", sent(404, "ResourceNotFoundException", "x"));
        assertEquals("405 method_not_allowed", sent(405, "MethodNotAllowedException", "x"));
        assertEquals("400 token_refused", sent(400, "InvalidKeyException", "x"));
        assertEquals("400 malformed", sent(400, "BadRequestException", "Invalid HTTP message."));
        assertEquals("400 malformed", sent(500, "ErrorDataDecoderException", "x"));
        assertEquals("500 internal", sent(500, "NullPointerException", null));
    }

    @Test
    public void aHandlersAnswersAreItsOwn() {
        String[] bodies = {"{\"error\": 1}", "{\n  \"code\": 1, \"type\"", "{\n  \"code\": 499,\n  \"type\": \"x\"\n}", "", "x"};
        for (String body : bodies) {
            assertEquals(body, send(500, body).content().toString(StandardCharsets.UTF_8));
        }
        assertEquals("a stopping server says so", "close", send(503, "{}").headers().get("connection"));
        assertNull(send(422, "{}").headers().get("connection"));
    }

    @Test
    public void torchServesCloseAfterAnErrorIsNotDone() {
        send(404, "{}");
        channel.close();
        assertTrue(channel.isOpen());
        channel.close();
        assertFalse("any other is", channel.isOpen());
    }
}
