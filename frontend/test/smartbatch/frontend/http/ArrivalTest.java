package smartbatch.frontend.http;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.http.DefaultHttpRequest;
import io.netty.handler.codec.http.HttpHeaders;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpVersion;
import java.util.List;
import org.junit.Test;

public class ArrivalTest {
    private final EmbeddedChannel channel = new EmbeddedChannel(new Arrival(List.of("my_sequence")));

    private HttpHeaders arrive(String... namesAndValues) {
        HttpRequest request = new DefaultHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.GET, "/");
        for (int i = 0; i < namesAndValues.length; i += 2) {
            request.headers().add(namesAndValues[i], namesAndValues[i + 1]);
        }
        channel.writeInbound(request);
        return channel.<HttpRequest>readInbound().headers();
    }

    @Test
    public void whatOnlyTorchServeMaySetIsTakenAway() {
        HttpHeaders left =
                arrive("Describe", "True", "EXPLAIN", "True", "explain", "x", "ts_stream_next", "true", "Url_Path", "/",
                        "My_Sequence", "1", "Accept", "x", "X-Request-Start", "1");
        assertEquals(2, left.size());
        assertEquals("x", left.get("accept"));
    }

    @Test
    public void theArrivalIsStampedUnlessSomebodyDid() {
        assertEquals("t=12.5", arrive("x-request-start", "t=12.5").get("X-Request-Start"));
        double before = Math.floor(System.currentTimeMillis()) / 1000;
        String stamp = arrive().get("X-Request-Start");
        assertTrue(stamp, stamp.matches("t=\\d+\\.\\d{3}"));
        double seconds = Double.parseDouble(stamp.substring(2));
        assertTrue(stamp, before <= seconds && seconds <= System.currentTimeMillis() / 1000.0);
    }
}
