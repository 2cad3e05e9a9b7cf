package smartbatch.frontend.worker;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import io.netty.buffer.ByteBuf;
import io.netty.channel.ChannelHandler;
import io.netty.channel.embedded.EmbeddedChannel;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.Map;
import org.junit.Test;
import org.pytorch.serve.util.messages.InputParameter;
import org.pytorch.serve.util.messages.ModelInferenceRequest;
import org.pytorch.serve.util.messages.RequestInput;
import org.pytorch.serve.util.messages.WorkerCommands;

/** Ours writes what TorchServe's own class, which is what these tests see by its name, writes. */
public class ModelRequestEncoderTest {
    private static final String NAME = "org.pytorch.serve.util.codec.ModelRequestEncoder";

    /** Loads one class from mended/, all else as usual. */
    private static final class Mended extends ClassLoader {
        Class<?> load() throws IOException {
            try (InputStream in = getResourceAsStream("mended/" + NAME.replace('.', '/') + ".class")) {
                byte[] bytes = in.readAllBytes();
                return defineClass(NAME, bytes, 0, bytes.length);
            }
        }

        Mended() {
            super(ModelRequestEncoderTest.class.getClassLoader());
        }
    }

    private static ChannelHandler encoder(Class<?> type) throws Exception {
        return (ChannelHandler) type.getConstructor(boolean.class).newInstance(true);
    }

    private static RequestInput input(String id, Map<String, String> headers, Object... parts) {
        RequestInput input = new RequestInput(id);
        input.setHeaders(headers);
        for (int i = 0; i < parts.length; i += 3) {
            input.addParameter(new InputParameter((String) parts[i], (byte[]) parts[i + 1], (String) parts[i + 2]));
        }
        return input;
    }

    private static ModelInferenceRequest batch() {
        byte[] large = new byte[3 * BodyPieces.PIECE_BYTES + 17];
        for (int i = 0; i < large.length; i++) {
            large[i] = (byte) (i * 31);
        }
        ModelInferenceRequest request = new ModelInferenceRequest("m");
        request.setCommand(WorkerCommands.PREDICT);
        request.addRequest(input("id-1", Map.of("Content-Type", "text/plain"), "body", "häh".getBytes(), "text/plain"));
        request.addRequest(input("id-2", Map.of(), "body", large, null, "more", new byte[0], "a/b"));
        RequestInput cached = input("id-3", Map.of("x", "y"), "body", new byte[] {1}, null);
        cached.setCachedInBackend(true);
        request.addRequest(cached);
        request.addRequest(input("id-4", Map.of(), "body", large, null));
        return request;
    }

    private static byte[] written(EmbeddedChannel channel) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        for (ByteBuf buffer = channel.readOutbound(); buffer != null; buffer = channel.readOutbound()) {
            assertTrue(buffer.readableBytes() + " bytes at once", buffer.readableBytes() <= 4 << 20);
            byte[] bytes = new byte[buffer.readableBytes()];
            buffer.readBytes(bytes);
            buffer.release();
            out.writeBytes(bytes);
        }
        return out.toByteArray();
    }

    @Test
    public void aBatchIsWrittenAsTorchServeWritesIt() throws Exception {
        EmbeddedChannel stock = new EmbeddedChannel(encoder(Class.forName(NAME)));
        EmbeddedChannel ours = new EmbeddedChannel(encoder(new Mended().load()));
        assertTrue(stock.writeOutbound(batch()));
        assertTrue(ours.writeOutbound(batch()));
        byte[] expected = written(stock);
        assertTrue(expected.length > 6 * BodyPieces.PIECE_BYTES);
        assertArrayEquals(expected, written(ours));
    }

    @Test
    public void aLargeBodyGoesInPieces() throws Exception {
        EmbeddedChannel ours = new EmbeddedChannel(encoder(new Mended().load()));
        ours.writeOutbound(batch());
        int most = 0;
        for (ByteBuf buffer = ours.readOutbound(); buffer != null; buffer = ours.readOutbound()) {
            most = Math.max(most, buffer.readableBytes());
            buffer.release();
        }
        assertEquals(BodyPieces.PIECE_BYTES, most);
    }
}
