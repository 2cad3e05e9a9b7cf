package smartbatch.frontend.operations;

import static org.junit.Assert.assertEquals;

import io.netty.handler.codec.http.FullHttpResponse;
import java.nio.charset.StandardCharsets;
import org.junit.Test;
import smartbatch.frontend.models.Models;

/** Of a server without a model; one with models is tests/e2e/frontend/test_operations.py's. */
public class OpenInferenceTest {
    private static String ask(String path) {
        FullHttpResponse answer = new OpenInference(new Models(), "1.2").answer(path);
        return answer.status().code() + " " + answer.content().toString(StandardCharsets.UTF_8);
    }

    @Test
    public void theServerTellsItsNameAndVersion() {
        String extensions = "[\"binary_tensor_data\",\"classification\"]";
        String server = "200 {\"name\":\"smartbatch\",\"version\":\"1.2\",\"extensions\":" + extensions + "}";
        assertEquals(server, ask("/v2"));
        assertEquals(server, ask("/v2/"));
    }

    @Test
    public void whatIsNotThereIsNamedAsTheClientNamedIt() {
        assertEquals("404 {\"error\":\"not found: model a/b+c\"}", ask("/v2/models/a%2Fb+c"));
        assertEquals("404 {\"error\":\"not found: model m version 1.0\"}", ask("/v2/models/m/versions/1.0/ready"));
        assertEquals("404 {\"error\":\"not found: /v2/models/m/stats\"}", ask("/v2/models/m/stats"));
        assertEquals("404 {\"error\":\"not found: /v2/models\"}", ask("/v2/models"));
    }

    @Test
    public void aServerWithoutAModelIsNotReady() {
        FullHttpResponse answer = new Health(new Models(), () -> false).ready();
        assertEquals(503, answer.status().code());
        String body = answer.content().toString(StandardCharsets.UTF_8);
        assertEquals("{\"models\":{},\"ready\":false,\"message\":\"no model is registered\"}", body);
    }

    @Test
    public void aServerThatDrainsIsNotReady() {
        String body = new Health(new Models(), () -> true).ready().content().toString(StandardCharsets.UTF_8);
        assertEquals("{\"models\":{},\"ready\":false,\"message\":\"the server is draining\"}", body);
    }
}
