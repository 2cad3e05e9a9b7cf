package smartbatch.frontend.http;

import static org.junit.Assert.assertEquals;

import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.nio.charset.StandardCharsets;
import org.junit.Test;

public class AnswerTest {
    @Test
    public void anErrorLooksAsTheHandlersDo() {
        FullHttpResponse answer = Answer.error(HttpResponseStatus.NOT_FOUND, "unknown_model", "no \"ü\"");
        String body = "{\"error\":{\"code\":\"unknown_model\",\"message\":\"no \\\"ü\\\"\"}}";
        assertEquals(body, answer.content().toString(StandardCharsets.UTF_8));
        assertEquals(body.getBytes(StandardCharsets.UTF_8).length, (int) answer.headers().getInt("content-length"));
        assertEquals("application/json", answer.headers().get("content-type"));
    }
}
