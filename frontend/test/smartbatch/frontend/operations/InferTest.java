package smartbatch.frontend.operations;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertSame;

import io.netty.buffer.Unpooled;
import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.DefaultHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpVersion;
import java.nio.charset.StandardCharsets;
import org.junit.Test;
import smartbatch.frontend.http.Answer;

public class InferTest {
    private static HttpRequest request(String uri) {
        return new DefaultHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.POST, uri);
    }

    private static void becomes(String uri, String path) {
        EmbeddedChannel channel = new EmbeddedChannel(new InferRequests());
        channel.writeInbound(request(uri));
        HttpRequest passed = channel.readInbound();
        assertEquals(path, passed.uri());
        assertEquals(uri.equals(path) ? null : "v2", passed.headers().get("X-SmartBatch-Protocol"));
    }

    @Test
    public void aRequestToInferIsAPredictionOfThatProtocol() {
        becomes("/v2/models/m/infer", "/predictions/m");
        becomes("/v2/models/m/infer/?x=1", "/predictions/m?x=1");
        becomes("/v2/models/m/versions/1.0-r1/infer", "/predictions/m/1.0-r1");
        becomes("/v2/models/a%2Fb/versions/2%20x/infer", "/predictions/a%2Fb/2%20x");
    }

    @Test
    public void othersAreLeftAlone() {
        becomes("/v2/models/m/ready", "/v2/models/m/ready");
        becomes("/v2/models/m/versions//infer", "/v2/models/m/versions//infer");
        becomes("/v2/models//infer", "/v2/models//infer");
        becomes("/predictions/m?x=/v2/models/m/infer", "/predictions/m?x=/v2/models/m/infer");
    }

    private static FullHttpResponse answered(String uri, FullHttpResponse answer) {
        EmbeddedChannel channel = new EmbeddedChannel(new InferErrors());
        channel.writeInbound(request(uri));
        channel.writeOutbound(answer);
        return channel.readOutbound();
    }

    private static String text(FullHttpResponse answer) {
        return answer.content().toString(StandardCharsets.UTF_8);
    }

    @Test
    public void anErrorIsAString() {
        FullHttpResponse error = Answer.error(HttpResponseStatus.SERVICE_UNAVAILABLE, "overloaded", "the \"queue\"");
        error.headers().set("Retry-After", "1");
        FullHttpResponse spelled = answered("/v2/models/m/infer", error);
        assertEquals("{\"error\":\"the \\\"queue\\\"\"}", text(spelled));
        assertEquals(503, spelled.status().code());
        assertEquals("1", spelled.headers().get("Retry-After"));
        assertEquals(text(spelled).length(), spelled.headers().getInt("content-length").intValue());
        assertEquals(1, spelled.headers().getAll("content-type").size());
        assertEquals(0, error.refCnt());
    }

    @Test
    public void whatIsNoErrorOfOursStays() {
        FullHttpResponse good = Answer.json(HttpResponseStatus.OK, "{\"error\": {\"message\": \"x\"}}");
        assertSame(good, answered("/v2/models/m/infer", good));
        FullHttpResponse spelled = Answer.json(HttpResponseStatus.NOT_FOUND, "{\"error\": \"x\"}");
        assertSame(spelled, answered("/v2/models/m", spelled));
        FullHttpResponse ours = Answer.error(HttpResponseStatus.NOT_FOUND, "x", "y");
        assertSame(ours, answered("/predictions/m", ours));
        for (String body : new String[] {"", "[1]", "{", "{\"error\": {\"message\": {}}}", "null"}) {
            FullHttpResponse other = new DefaultFullHttpResponse(
                    HttpVersion.HTTP_1_1, HttpResponseStatus.BAD_REQUEST, Unpooled.copiedBuffer(body.getBytes()));
            assertSame(body, other, answered("/v2/x", other));
        }
    }

    @Test
    public void theNextRequestOfAConnectionHasItsOwnForm() {
        EmbeddedChannel channel = new EmbeddedChannel(new InferErrors());
        channel.writeInbound(request("/v2/models/m/infer"));
        channel.writeInbound(request("/predictions/m"));
        FullHttpResponse ours = Answer.error(HttpResponseStatus.NOT_FOUND, "x", "y");
        channel.writeOutbound(ours);
        assertSame(ours, channel.readOutbound());
        assertNull(channel.readOutbound());
    }
}
