package smartbatch.frontend.http;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.http.DefaultFullHttpRequest;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpVersion;
import java.nio.charset.StandardCharsets;
import org.junit.Test;

public class FormsTest {
    private static final String PART = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n";

    /** What is said of a form; "" where it may pass. */
    private static String said(String body) {
        return said(body, "multipart/form-data; boundary=\"b\"");
    }

    private static String said(String body, String type) {
        EmbeddedChannel channel = new EmbeddedChannel(new Forms());
        ByteBuf bytes = Unpooled.copiedBuffer(body, StandardCharsets.ISO_8859_1);
        FullHttpRequest request = new DefaultFullHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.POST, "/", bytes);
        request.headers().set("content-type", type);
        channel.writeInbound(request);
        FullHttpResponse answer = channel.readOutbound();
        if (answer == null) {
            return "";
        }
        assertEquals(400, answer.status().code());
        assertEquals(0, request.refCnt());
        return answer.content().toString(StandardCharsets.UTF_8);
    }

    @Test
    public void ordinaryFormsPass() {
        assertEquals("", said(PART + PART + "--b--\r\n"));
        assertEquals("", said(PART.repeat(Forms.MAX_PARTS) + "--b--\r\n"));
        assertEquals("", said(PART.replace("\r\n", "\n") + "--b--"));
        assertEquals("", said("--b\r\nContent-Length: 5\r\n\r\n" + "-\n--\n --b\n--".repeat(10_000) + "\r\n--b--"));
        assertEquals("", said("no form at all"));
    }

    @Test
    public void aFormNeedsABoundary() {
        assertEquals("", said("x", "multipart/form-data"));
        String nameless = said("x", "multipart/form-data; boundary");
        assertTrue(nameless, nameless.contains("must name its boundary"));
    }

    @Test
    public void manyPartsAndLongHeadsDoNot() {
        String many = said(PART.repeat(Forms.MAX_PARTS + 2));
        assertTrue(many, many.contains("a form may have 128 fields at most"));
        String head = "--b\r\nContent-Disposition: form-data" + ";a=b".repeat(Forms.MAX_HEAD_BYTES) + "\r\n\r\nx\r\n--b--";
        assertTrue(said(head), said(head).contains("within 4096 bytes"));
        String lines = "--b\r\n" + "\r \r\n".repeat(Forms.MAX_HEAD_BYTES) + "\r\nx\r\n--b--";
        assertTrue(said(lines), said(lines).contains("within 4096 bytes"));
    }

    @Test
    public void partsInPartsAndPartsThatWantAFileDoNot() {
        String nested = said("--b\r\nCONTENT-TYPE :  multipart/mixed; boundary=c\r\n\r\n--c\r\n");
        assertTrue(nested, nested.contains("multipart itself"));
        String long_ = said("--b\r\nContent-length: \"99999999999999999999\"\r\n\r\nx\r\n--b--");
        assertTrue(long_, long_.contains("longer than the form"));
    }
}
