package smartbatch.frontend.http;

import io.netty.buffer.ByteBuf;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.multipart.HttpPostRequestDecoder;
import io.netty.util.ByteProcessor;
import io.netty.util.ReferenceCountUtil;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Refuses web forms, and multipart bodies whose parts are many or have long heads, before TorchServe takes them apart:
 * it makes objects of every part and of every word of a head, a hundred times the size of what was sent.
 *
 * <p>A part of several parts is refused too, and one that says it is longer than the body, for which TorchServe would
 * open a file.
 */
public final class Forms extends ChannelInboundHandlerAdapter {
    /** As many as current releases of Netty take, and as the worker takes. */
    static final int MAX_PARTS = 128;

    static final int MAX_HEAD_BYTES = 4096;

    private static final String URLENCODED = "application/x-www-form-urlencoded";
    private static final Pattern END_OF_HEAD = Pattern.compile("\n\r?\n");
    private static final Pattern NESTED = Pattern.compile("(?i)content-type\\s*:\\s*multipart/");
    private static final Pattern LENGTH = Pattern.compile("(?i)content-length\\s*:\\D{0,9}(\\d+)");

    /** The answer to a request whose head says that a web form comes; null to any other. */
    static FullHttpResponse refusal(HttpRequest head) {
        for (String type : head.headers().getAll(HttpHeaderNames.CONTENT_TYPE)) {
            if (type.strip().toLowerCase(Locale.ROOT).startsWith(URLENCODED)) {
                return Answer.error(
                        HttpResponseStatus.UNSUPPORTED_MEDIA_TYPE,
                        "unknown_format",
                        "the body came as a web form, which is what `curl -d` says of any body: name its own type "
                                + "(-H 'Content-Type: application/json'), or send a file with `curl -T FILE`");
            }
        }
        return null;
    }

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        String wrong = message instanceof FullHttpRequest request ? wrong(request) : null;
        if (wrong == null) {
            ctx.fireChannelRead(message);
        } else {
            ReferenceCountUtil.release(message);
            ctx.writeAndFlush(Answer.error(HttpResponseStatus.BAD_REQUEST, "malformed", wrong));
        }
    }

    private static String wrong(FullHttpRequest request) {
        try {
            boolean isForm = HttpPostRequestDecoder.isMultipart(request);
            return isForm ? wrong(request.content(), Boundary.of(request)) : null;
        } catch (HttpPostRequestDecoder.ErrorDataDecoderException e) {
            return "a form's Content-Type must name its boundary";
        }
    }

    /** Netty's own reading of a Content-Type, which it keeps to its subclasses. */
    private static final class Boundary extends HttpPostRequestDecoder {
        private Boundary(HttpRequest request) {
            super(request);
        }

        static String of(HttpRequest request) {
            return getMultipartDataBoundary(request.headers().get(HttpHeaderNames.CONTENT_TYPE))[0];
        }
    }

    /** What is wrong with the heads of a body's parts; null where nothing is. */
    private static String wrong(ByteBuf body, String delimiter) {
        List<Integer> parts = parts(body, delimiter.getBytes(StandardCharsets.ISO_8859_1));
        if (parts.size() > MAX_PARTS + 1) { // and the last delimiter, which begins none
            return "a form may have " + MAX_PARTS + " fields at most";
        }
        for (int at : parts) {
            int most = Math.min(MAX_HEAD_BYTES, body.writerIndex() - at);
            String text = body.toString(at, most, StandardCharsets.ISO_8859_1);
            if (text.startsWith("--")) {
                continue;
            }
            Matcher end = END_OF_HEAD.matcher(text);
            if (!end.find()) {
                return "the head of a form's part must end within " + MAX_HEAD_BYTES + " bytes";
            }
            String head = text.substring(0, end.start());
            Matcher length = LENGTH.matcher(head);
            if (NESTED.matcher(head).find()) {
                return "a form's part may not be multipart itself";
            }
            if (length.find() && new BigDecimal(length.group(1)).compareTo(new BigDecimal(body.writerIndex())) > 0) {
                return "a form's part cannot be longer than the form";
            }
        }
        return null;
    }

    /** Where the delimiter ends in each line that it begins, up to one too many. */
    private static List<Integer> parts(ByteBuf body, byte[] delimiter) {
        List<Integer> found = new ArrayList<>();
        body.forEachByte(
                new ByteProcessor() {
                    private int at = body.readerIndex();
                    private int matched; // bytes of the delimiter; below 0 in a line that does not begin with it

                    @Override
                    public boolean process(byte next) {
                        at++;
                        if (next == '\n') {
                            matched = 0;
                        } else if (matched >= 0) {
                            matched = next == delimiter[matched] ? matched + 1 : -1;
                            if (matched == delimiter.length) {
                                found.add(at);
                                matched = -1;
                            }
                        }
                        return found.size() <= MAX_PARTS + 1;
                    }
                });
        return found;
    }
}
